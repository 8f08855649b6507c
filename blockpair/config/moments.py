"""When a changed value is in use: of every key of ``blockpair.toml`` and ``cluster.toml``."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from msgspec import Struct

KeyPath = tuple[str, ...]


class Moment(StrEnum):
    """``SERVICE``: what is up goes on as it was brought up, until it is moved or promoted anew; ``FIXED``: an
    edit does not change it while the resource is up, or at all.
    """

    AT_ONCE = "at once"
    UP = "down and up"
    SERVICE = "service"
    RESTART = "restart"
    FIXED = "fixed"


def _of(moment: Moment, table: str, keys: str) -> dict[str, Moment]:
    return {f"{table}.{key}": moment for key in keys.split()}


_PART = "good bad weight severity"
_DELIVERY = "severity kinds timeout"

# By names as docs/reference/config.md has them: a part in capitals stands for any name.
NODE_KEYS: dict[str, Moment] = {
    **_of(Moment.RESTART, "node", "name listen control kernel_device"),
    **_of(Moment.RESTART, "watchdog", "mode device timeout"),
    **_of(Moment.RESTART, "metrics", "listen"),
    **_of(Moment.AT_ONCE, "health", "hand_over sick_below recovered_above peer_above margin patience dwell"),
    **_of(Moment.AT_ONCE, "health", "switchovers_a_day"),
    **_of(Moment.AT_ONCE, "health.parts.KIND", _PART),
    **_of(Moment.RESTART, "notify.hooks", f"enabled {_DELIVERY}"),
    **_of(Moment.RESTART, "notify.webhook.NAME", f"url ca token_file {_DELIVERY}"),
    **_of(Moment.RESTART, "notify.mail", f"host from to security port user password_file ca {_DELIVERY}"),
    **_of(Moment.RESTART, "raid", "watch heal replace_at rebuild_latency scrub_days scrub_hours adopt.ARRAY"),
    **_of(Moment.RESTART, "log", "format level"),
}

CLUSTER_KEYS: dict[str, Moment] = {
    **_of(Moment.AT_ONCE, "cluster", "name"),
    **_of(Moment.FIXED, "cluster", "id"),
    **_of(Moment.AT_ONCE, "node.NODE", "addresses port control_port"),
    **_of(Moment.FIXED, "node.NODE", "lost"),
    **_of(Moment.UP, "arbiter", "kind"),
    **_of(Moment.AT_ONCE, "arbiter", "address endpoints ca cert key prefix"),
    **_of(Moment.AT_ONCE, "fence.NODE", "levels delay"),
    **_of(Moment.FIXED, "resource.NAME", "block_size"),
    **_of(Moment.FIXED, "resource.NAME.on.NODE", "device metadata"),
    **_of(Moment.UP, "resource.NAME.on.NODE", "priority"),
    **_of(Moment.UP, "resource.NAME", "protocol split_brain on_io_error disk_driver warm_up tls arbiter"),
    **_of(Moment.UP, "resource.NAME.arbitration", "profile beacon lease patience drift"),
    **_of(Moment.UP, "resource.NAME.timeouts", "peer resume_wait"),
    **_of(Moment.UP, "resource.NAME.nbd", "kernel_device queues sector_size dead_connection_timeout"),
    **_of(Moment.SERVICE, "resource.NAME.service", "mount file_system options units vips"),
    **_of(Moment.SERVICE, "resource.NAME.service.hooks", "promoted demoting"),
    **_of(Moment.SERVICE, "resource.NAME.service.timeouts", "mount unmount fsck start stop hook"),
}


def moment(known: dict[str, Moment], path: KeyPath) -> Moment:
    """Of the key at ``path``, or of the first below it where that is a table."""
    return next(moment for name, moment in known.items() if _fits(name.split("."), path))


def _fits(name: list[str], path: KeyPath) -> bool:
    return len(path) <= len(name) and all(
        one.isupper() or one == part for one, part in zip(name, path, strict=False)
    )


def changed(old: Any, new: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Where two files, or parts of them, have different values; of a table that only one has, the table."""
    if isinstance(old, Struct) and type(old) is type(new):
        names = zip(old.__struct_fields__, old.__struct_encode_fields__, strict=True)
        for field, name in names:
            yield from changed(getattr(old, field), getattr(new, field), (*path, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from changed(old.get(name), new.get(name), (*path, name))
    elif old != new:
        yield path


def waiting(old: Struct, new: Struct) -> list[str]:
    """The keys of ``blockpair.toml`` that a daemon which runs by ``old`` takes from ``new`` when it is
    restarted.
    """
    return [".".join(path) for path in changed(old, new) if moment(NODE_KEYS, path) is not Moment.AT_ONCE]
