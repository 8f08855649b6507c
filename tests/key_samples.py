"""A value for every key of the configuration that is not the one before: what tests change to see when it is
in use.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

# Of blockpair.toml, as TOML; by the names of `NODE_KEYS`.
NODE_VALUES: dict[str, str] = {
    "node.name": '"z"',
    "node.listen": '"127.0.0.1:1"',
    "node.control": '"127.0.0.1:2"',
    "node.kernel_device": '"required"',
    "watchdog.mode": '"required"',
    "watchdog.device": '"/nowhere/watchdog"',
    "watchdog.timeout": '"7s"',
    "metrics.listen": '"127.0.0.1:3"',
    "health.hand_over": '"off"',
    "health.sick_below": "99.0",
    "health.recovered_above": "99.5",
    "health.peer_above": "100.0",
    "health.margin": "30.0",
    "health.patience": '"4m"',
    "health.dwell": '"11m"',
    "health.switchovers_a_day": "4",
    "health.parts.KIND.good": "1000.0",
    "health.parts.KIND.bad": "999.0",
    "health.parts.KIND.weight": "0.7",
    "health.parts.KIND.severity": "0.5",
    "notify.hooks.enabled": "false",
    "notify.hooks.severity": '"error"',
    "notify.hooks.kinds": '["disk.*"]',
    "notify.hooks.timeout": '"20s"',
    "notify.webhook.NAME.url": '"http://127.0.0.1:4/"',
    "notify.webhook.NAME.ca": '"/nowhere/ca.pem"',
    "notify.webhook.NAME.token_file": '"/nowhere/token"',
    "notify.webhook.NAME.severity": '"info"',
    "notify.webhook.NAME.kinds": '["daemon.*"]',
    "notify.webhook.NAME.timeout": '"5s"',
    "notify.mail.host": '"127.0.0.1"',
    "notify.mail.from": '"a@x"',
    "notify.mail.to": '["b@x"]',
    "notify.mail.security": '"off"',
    "notify.mail.port": "5",
    "notify.mail.user": '"u"',
    "notify.mail.password_file": '"/nowhere/password"',
    "notify.mail.ca": '"/nowhere/ca.pem"',
    "notify.mail.severity": '"error"',
    "notify.mail.kinds": '["disk.*"]',
    "notify.mail.timeout": '"5s"',
    "raid.watch": '"off"',
    "raid.heal": '"off"',
    "raid.replace_at": "20",
    "raid.rebuild_latency": '"50ms"',
    "raid.scrub_days": "30",
    "raid.scrub_hours": '"1-5"',
    "raid.adopt.ARRAY": '["pci-0000:03:00.0-sas-phy4-lun-0"]',
    "log.format": '"console"',
    "log.level": '"error"',
}
# Of cluster.toml, as `config edit --set` takes them; by the names of `CLUSTER_KEYS`.
CLUSTER_VALUES: dict[str, str] = {
    "cluster.name": "other",
    "cluster.id": "11111111-6d6f-4b47-8d7e-0a2f0b8a3d11",
    "node.NODE.addresses": '["127.0.0.1", "127.0.0.3"]',
    "node.NODE.port": "6",
    "node.NODE.control_port": "7",
    "node.NODE.lost": "true",
    "arbiter.kind": "witness",
    "arbiter.address": "127.0.0.1:8",
    "arbiter.endpoints": '["https://127.0.0.1:9"]',
    "arbiter.ca": "/nowhere/ca.pem",
    "arbiter.cert": "/nowhere/cert.pem",
    "arbiter.key": "/nowhere/key.pem",
    "arbiter.prefix": "/other",
    "fence.NODE.levels": '[[{ agent = "fence_x" }]]',
    "fence.NODE.delay": "5s",
    "resource.NAME.block_size": "8K",
    "resource.NAME.protocol": "A",
    "resource.NAME.split_brain": "priority",
    "resource.NAME.on_io_error": "pass-on",
    "resource.NAME.disk_driver": "threads",
    "resource.NAME.warm_up": '"0"',
    "resource.NAME.tls": "off",
    "resource.NAME.arbiter": "manual",
    "resource.NAME.on.NODE.device": "/nowhere/disk",
    "resource.NAME.on.NODE.metadata": "/nowhere/meta",
    "resource.NAME.on.NODE.priority": "7",
    "resource.NAME.arbitration.profile": "wan",
    "resource.NAME.arbitration.beacon": "2s",
    "resource.NAME.arbitration.patience": "7s",
    "resource.NAME.arbitration.lease": "40s",
    "resource.NAME.arbitration.drift": "2000",
    "resource.NAME.timeouts.peer": "20s",
    "resource.NAME.timeouts.resume_wait": "1s",
    "resource.NAME.nbd.kernel_device": "off",
    "resource.NAME.nbd.queues": "2",
    "resource.NAME.nbd.sector_size": "512",
    "resource.NAME.nbd.dead_connection_timeout": "1m",
    "resource.NAME.service.mount": "/nowhere/mount",
    "resource.NAME.service.file_system": "xfs",
    "resource.NAME.service.options": '["noatime"]',
    "resource.NAME.service.units": '["x.service"]',
    "resource.NAME.service.vips": '["192.0.2.9/24@eth7"]',
    "resource.NAME.service.hooks.promoted": "/nowhere/promoted",
    "resource.NAME.service.hooks.demoting": "/nowhere/demoting",
    "resource.NAME.service.timeouts.mount": "21s",
    "resource.NAME.service.timeouts.unmount": "22s",
    "resource.NAME.service.timeouts.fsck": "23s",
    "resource.NAME.service.timeouts.start": "24s",
    "resource.NAME.service.timeouts.stop": "25s",
    "resource.NAME.service.timeouts.hook": "26s",
}


def named(key: str, names: Mapping[str, str]) -> str:
    """``key`` with real names for the parts of it that stand for any."""
    return ".".join(names.get(part, part) for part in key.split("."))


def tables(
    values: Mapping[str, str],
    names: Mapping[str, str],
    keys: Iterable[str],
    into: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Those of the values, as the tables that a file has, put ``into`` those that are there."""
    found: dict[str, Any] = {} if into is None else into
    for key in keys:
        *above, last = named(key, names).split(".")
        table = found
        for part in above:
            table = table.setdefault(part, {})
        table[last] = tomllib.loads(f"x = {values[key]}")["x"]
    return found
