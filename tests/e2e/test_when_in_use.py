"""Keys of the configuration that are changed while all is up: what is in use at once, and what waits, and
that the administrator is told what for. `blockpair.config.moments` says which. Of all keys it is seen that
they are named as they should be; of those that show without hardware, hours or disasters, that they are used.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from blockpair.config.moments import CLUSTER_KEYS, NODE_KEYS, Moment
from blockpair.errors import BlockpairError, ErrorKind
from tests.e2e.cluster import DEADLINE, Cluster, Node, eventually, free_ports
from tests.e2e.fence import PowerDevice
from tests.e2e.test_events import hook
from tests.e2e.trio import Trio, arbitration, engine
from tests.key_samples import CLUSTER_VALUES, NODE_VALUES, named, tables
from tests.receivers import HttpReceiver, SmtpReceiver

NAMES = {"NODE": "a", "NAME": "r0", "KIND": "memory-available", "ARRAY": "md0"}
# They want a server that asks who sends, or has a certificate.
NODE_LEFT_OUT = {
    "notify.webhook.NAME.ca", "notify.mail.ca", "notify.mail.user", "notify.mail.password_file",
}  # fmt: skip


def _open(port: int) -> bool:
    with socket.socket() as entry:
        return entry.connect_ex(("127.0.0.1", port)) == 0


def _advice(node: Node, code: str, name: str | None = None) -> list[str]:
    """The texts of that advice, on the node or its resource."""
    report = node.rpc("resource.status")
    of = report if name is None else next(one for one in report["resources"] if one["name"] == name)
    return [entry["text"] for entry in of["advice"] if entry["code"] == code]


def _keys_told(node: Node, code: str, name: str | None = None) -> set[str]:
    """The keys that it names."""
    told = _advice(node, code, name)
    return set(told[0].partition(" yet: ")[2].partition(";")[0].split(", ")) if told else set()


def _found(node: Node) -> dict[str, str]:
    """What `doctor` says of each check."""
    return {one["id"]: one["what"] for one in node.rpc("node.checks")["findings"]}


def _restart(node: Node) -> None:
    node.stop()
    node.start()


def _health(node: Node) -> Any:
    """What it says of its health; None before the first look."""
    try:
        return node.rpc("node.health")["own"]
    except BlockpairError as error:
        assert error.kind is ErrorKind.FAILED
        return None


def _memory(node: Node) -> Any:
    """How it judges the memory that is available."""
    [found] = [part for part in _health(node)["parts"] if part["name"] == NAMES["KIND"]]
    return found


def test_health_is_in_use_at_once_and_a_port_and_a_resource_s_file_after_a_restart(cluster: Cluster) -> None:
    a = cluster.a
    cluster.start(a)
    with a.disk.open("wb") as disk:
        disk.truncate(16 << 20)
    a.ok("create", "r0", "--device", str(a.disk), *cluster.peer_option(a))
    a.rpc("resource.up", name="r0")
    # The port of the calls between daemons is open on a member only.
    a.rpc("cluster.init", name="alone")
    eventually(lambda: _health(a) is not None, "it has looked")
    assert _health(a)["hand_over"] and _memory(a)["score"] > 0
    old = a.control
    [a.control] = free_ports(1)
    keys = [key for key in NODE_KEYS if NODE_KEYS[key] is Moment.AT_ONCE]
    a.configure(tomlkit.dumps(tables(NODE_VALUES, NAMES, keys)))
    eventually(lambda: not _health(a)["hand_over"], "it tells only")
    eventually(lambda: _memory(a)["score"] == 0, "there never is enough memory")
    assert (_memory(a)["weight"], _memory(a)["cap"]) == (0.7, 50)
    assert _keys_told(a, "node-settings") == {"node.control"}
    assert _open(old) and not _open(a.control)
    # A resource that is not the cluster's has a file that is written by hand.
    [elsewhere] = free_ports(1)
    file = a.dir / "config/resources/r0.toml"
    text = file.read_text().replace(f":{cluster.b.port}", f":{elsewhere}")
    file.write_text(text.replace('protocol = "C"', 'protocol = "B"'))
    assert _keys_told(a, "pending-settings", "r0") == {"protocol", "peer"}
    assert engine(a)["peers"][0]["address"] == f"127.0.0.1:{cluster.b.port}"
    _restart(a)
    eventually(lambda: _open(a.control) and not _open(old), "it is elsewhere")
    assert not _advice(a, "node-settings") and not _advice(a, "pending-settings", "r0")
    assert engine(a)["peers"][0]["address"] == f"127.0.0.1:{elsewhere}" and engine(a)["protocol"] == "B"


class _Changed:
    """A node's file with other values for all keys that can be told by a test, and what would show them."""

    def __init__(self, node: Node, web: HttpReceiver, mail: SmtpReceiver) -> None:
        self.node, self.web, self.mail = node, web, mail
        self.listen, self.metrics = free_ports(2)
        self.file = node.dir / "config/blockpair.toml"
        self.ran = node.dir / "ran"
        (node.dir / "token").write_text("secret\n")
        hook(node, "10-note", f'echo "$BLOCKPAIR_EVENT" >>{self.ran}')
        self.values = {
            **NODE_VALUES,
            "node.listen": f'"127.0.0.1:{self.listen}"',
            "metrics.listen": f'"127.0.0.1:{self.metrics}"',
            "notify.webhook.NAME.url": f'"{web.url}"',
            "notify.webhook.NAME.token_file": f'"{node.dir}/token"',
            "notify.mail.port": str(mail.port),
            "notify.mail.severity": '"info"',
            "notify.mail.kinds": '["daemon.*"]',
            "log.level": '"warning"',
        }
        self.keys = {key for key in NODE_KEYS if NODE_KEYS[key] is Moment.RESTART} - NODE_LEFT_OUT

    def write(self) -> None:
        """From here on it is so."""
        self.file.write_text(tomlkit.dumps(tables(self.values, NAMES, self.keys)))

    @property
    def named(self) -> set[str]:
        """What is to be told: of a delivery that was not there before, the whole."""
        whole = ("notify.webhook", "notify.mail")
        found = {named(key, NAMES) for key in self.keys if not key.startswith(whole)}
        return found | {"notify.webhook.r0", "notify.mail"}

    def happened(self) -> list[str]:
        """The events that the program in hooks.d was run for."""
        return self.ran.read_text().split() if self.ran.exists() else []

    def in_use(self) -> set[str]:
        """Of what can be asked for: what is in use."""
        found = _found(self.node)
        shown = {
            "node.name": self.node.rpc("resource.status")["node"] == "z",
            "node.listen": _open(self.listen) and not _open(self.node.port),
            "metrics.listen": _open(self.metrics),
            "node.kernel_device": "switched off" not in found["nbd"],
            "watchdog.mode": "/nowhere/watchdog" in found["watchdog"],
            "notify.webhook": any(one["what"] == "daemon.ready" for one in self.web.bodies),
            "notify.mail": any("From: a@x" in one and "daemon.ready" in one for one in self.mail.messages),
        }
        return {key for key, so in shown.items() if so}


def test_the_rest_of_the_node_s_file_is_in_use_after_a_restart(cluster: Cluster) -> None:
    a = cluster.a
    with HttpReceiver() as web, SmtpReceiver() as mail:
        changed = _Changed(a, web, mail)
        cluster.start(a)
        eventually(lambda: "daemon.ready" in changed.happened(), "a program is run for it")
        changed.write()
        eventually(lambda: _keys_told(a, "node-settings") == changed.named, "all of them are named")
        told = a.cli("status")
        assert told.code == 4 and "node.listen" in told.out and "restart blockpaird" in told.out
        assert "node.listen" in _found(a)["node-settings"]
        assert changed.in_use() == set() and not web.requests and not mail.messages
        json.loads(a.log.read_text().splitlines()[-1])

        before, logged = len(changed.happened()), len(a.log.read_text())
        a.stop()
        stopped = len(a.log.read_text())
        assert stopped > logged, "what it says at its end is of no less a level than before"
        a.start()
        shown = {"node.name", "node.listen", "metrics.listen", "node.kernel_device", "watchdog.mode"}
        eventually(
            lambda: changed.in_use() == shown | {"notify.webhook", "notify.mail"}, "all of them are in use"
        )
        assert not _advice(a, "node-settings")
        assert web.headers[-1]["Authorization"] == "Bearer secret"
        assert {one["what"].partition(".")[0] for one in web.bodies} == {"daemon"}
        assert "daemon.ready" not in changed.happened()[before:], "no program is run for it"

        # A file that it would not start with is told of before that is tried.
        changed.file.write_text('[node]\nlisten = "nowhere"\n')
        eventually(lambda: bool(_advice(a, "node-misconfigured")), "it is told")
        assert "would not start again" in a.cli("status").out
        last = a.log.read_text()[stopped:]
        assert "health.misconfigured" in last and "daemon.ready" not in last, "by the new level"
        assert not last.splitlines()[-1].startswith("{"), "for a person"


def _edit(node: Node, values: dict[str, str], keys: Collection[str], code: int = 0) -> str:
    """Change these keys; what `config edit` says."""
    words = [word for key in keys for word in ("--set", f"{named(key, NAMES)}={values[key]}")]
    done = node.cli("config", "edit", *words)
    assert done.code == code, done.out + done.err
    return done.out


def _lost_after(a: Node, b: Node) -> float:
    """Seconds until a peer that is silent counts as lost."""
    with b.silent():
        began = time.monotonic()
        eventually(lambda: engine(a)["peers"][0]["connection"] != "Connected", "b counts as lost")
        return time.monotonic() - began


class _Served:
    """A service of hooks alone, of which a file on the node tells what was run."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._told = node.dir / "served"
        self._keys = [key for key in CLUSTER_KEYS if ".hooks." in key]

    def define(self, which: str) -> str:
        """Have it be the one called ``which``; what `config edit` says."""
        values = {}
        for key in self._keys:
            script = self._node.dir / f"{key.rpartition('.')[2]}-{which}"
            script.write_text(f'#!/bin/sh\necho "$1 {which}" >>{self._told}\n')
            script.chmod(0o755)
            values[key] = str(script)
        return _edit(self._node, values, self._keys)

    def ran(self) -> list[str]:
        """What was."""
        return self._told.read_text().splitlines() if self._told.exists() else []


def test_of_the_cluster_s_keys_each_is_in_use_when_it_is_said_to_be(trio: Trio) -> None:
    a, b = trio.cluster.nodes
    trio.join()
    trio.create()
    _a_service_is_in_use_when_it_is_brought_up_next(trio)
    _names_and_places_are_in_use_at_once(a, b)
    _what_is_fixed_is_refused(a)
    a.rpc("resource.demote", name="r0")
    _the_rest_is_in_use_after_down_and_up(a, b)
    _another_arbiter_is_in_use_after_down_and_up(trio)


def _a_service_is_in_use_when_it_is_brought_up_next(trio: Trio) -> None:
    a = trio.a
    served = _Served(a)
    assert "is Primary already, its service is brought up by: blockpair promote r0" in served.define("first")
    trio.served_by_a()
    eventually(lambda: served.ran() == ["promoted first"], "it is up")
    told = served.define("second")
    assert "service of r0 is up, it goes on as before until: blockpair switchover r0" in told
    assert "blockpair down" not in told
    eventually(lambda: bool(_advice(a, "service-changed", "r0")), "it is named")
    assert not _advice(a, "pending-settings", "r0")
    a.rpc("resource.demote", name="r0")
    assert served.ran()[1:] == ["demoting first"]
    a.rpc("resource.promote", name="r0")
    eventually(lambda: served.ran()[2:] == ["promoted second"], "it is up as it is defined now")
    assert not _advice(a, "service-changed", "r0")


def _names_and_places_are_in_use_at_once(a: Node, b: Node) -> None:
    told = _edit(a, CLUSTER_VALUES, ("cluster.name", "node.NODE.addresses"))
    assert "until" not in told
    for node in (a, b):
        eventually(partial(_is_called, node, "other"), "the name is known")
    eventually(lambda: len(engine(b)["peers"][0]["paths"]) == 2, "there is another way to a")
    assert not _advice(b, "pending-settings", "r0")


def _what_is_fixed_is_refused(a: Node) -> None:
    for key in (key for key in CLUSTER_KEYS if CLUSTER_KEYS[key] is Moment.FIXED):
        with pytest.raises(BlockpairError) as refused:
            a.rpc("config.edit", settings=[f"{named(key, NAMES)}={CLUSTER_VALUES[key]}"])
        assert key.rpartition(".")[2] in refused.value.message


def _another_arbiter_is_in_use_after_down_and_up(trio: Trio) -> None:
    a, b = trio.cluster.nodes
    trio.witness.start()
    trio.witness.join(a)
    values = CLUSTER_VALUES | {"arbiter.address": f"127.0.0.1:{trio.witness.port}"}
    told = _edit(a, values, ("arbiter.kind", "arbiter.address"))
    assert "r0 goes by its old arbiter until: blockpair down r0 (on a and b, Primary first)" in told
    assert _keys_told(a, "pending-settings", "r0") == {"arbiter"} and arbitration(a) is None
    for command in ("down", "up"):
        for node in (a, b):
            node.rpc(f"resource.{command}", name="r0")
    for node in (a, b):
        assert not _advice(node, "pending-settings", "r0")
    _synced(a)
    a.rpc("resource.promote", name="r0")
    # Of the default it was 2 s, of the profile 10 s.
    eventually(lambda: (arbitration(a)["lease_seconds"] or 0) > 10, "b gives its word for so long")


def _synced(node: Node) -> None:
    node.rpc("resource.wait", name="r0", until=["synced"], timeout_seconds=DEADLINE)


def _is_called(node: Node, name: str) -> bool:
    return bool(node.rpc("cluster.status")["cluster"] == name)


def _in_use(node: Node) -> tuple[object, ...]:
    """What the engine goes by, of what it shows."""
    known, peer = engine(node), engine(node)["peers"][0]
    shown = (known["protocol"], known["split_brain_policy"], known["priority"], known["backing"]["driver"])
    return (*shown, peer["tls"])


def _the_rest_is_in_use_after_down_and_up(a: Node, b: Node) -> None:
    up = [key for key in CLUSTER_KEYS if CLUSTER_KEYS[key] is Moment.UP and "arbiter" not in key.split(".")]
    told = _edit(b, CLUSTER_VALUES | {"resource.NAME.timeouts.peer": "6s"}, up)
    assert "r0 goes on as before until: blockpair down r0 && blockpair up r0 (on a and b)" in told
    keys = {key.removeprefix("resource.NAME.").removeprefix("on.NODE.") for key in up}
    keys = {"arbitration" if key.startswith("arbitration.") else key for key in keys}
    assert _keys_told(a, "pending-settings", "r0") == keys
    assert _keys_told(b, "pending-settings", "r0") == keys - {"priority"}
    assert "protocol" in _found(a)["pending-settings"]
    before = _in_use(a)
    assert before[:3] == ("C", "discard-zero-changes", 0) and before[3] != "threads" and before[4]
    # A restart of the daemon takes it up too.
    _restart(b)
    assert _in_use(b) == ("A", "priority", 0, "threads", False) and _in_use(a) == before
    a.rpc("resource.down", name="r0")
    a.rpc("resource.up", name="r0")
    assert _in_use(a) == ("A", "priority", 7, "threads", False)
    for node in (a, b):
        _synced(node)
        assert not _advice(node, "pending-settings", "r0")
    # Of the silence, up to a quarter was before; by the default it would be 3 s.
    assert _lost_after(a, b) > 4


def test_how_an_arbiter_is_asked_is_in_use_at_once(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))

    def asked(words: str, *settings: str, unset: Collection[str] = ()) -> None:
        """Both nodes know one that such words are of, after that change."""
        a.rpc("config.edit", settings=list(settings), unset=list(unset))
        for node in (a, b):
            eventually(partial(_says, node, words), f"{node.name} says {words} of the arbiter")

    asked(f"witness {first}", "arbiter.kind=witness", f"arbiter.address={first}")
    asked(f"witness {second}", f"arbiter.address={second}")
    files = {key: a.dir / key for key in ("ca", "cert", "key")}
    etcd = [f"arbiter.{key}={path}" for key, path in files.items()]
    asked(
        f"etcd https://{first}",
        "arbiter.kind=etcd",
        f'arbiter.endpoints=["https://{first}"]',
        *etcd,
        unset=["arbiter"],
    )
    asked(f"etcd https://{second}", f'arbiter.endpoints=["https://{second}"]')
    # The first that is not there is named.
    for key, path in files.items():
        asked(f"{path}: No such file", f"arbiter.{key}={path}")
        asked(f"{path}-other: No such file", f"arbiter.{key}={path}-other")
        Path(f"{path}-other").write_text("")

    power = {node.name: PowerDevice(node.dir) for node in (a, b)}

    def levels(name: str, mode: str) -> str:
        options = {"state_file": str(power[name].state), "mode": mode, "log": str(power[name].log)}
        table = ", ".join(f'{key} = "{value}"' for key, value in options.items())
        return f'fence.{name}.levels=[[{{ agent = "{power[name].agent}", options = {{ {table} }} }}]]'

    works = [levels(name, "works") for name in power]
    asked('"reachable": true', "arbiter.kind=fence", "fence.a.delay=5s", *works, unset=["arbiter"])
    fails = [levels(name, "fails") for name in power]
    asked('"reachable": false', *fails)
    asked('"reachable": true', *works, "fence.a.delay=7s")
    assert a.ok("fence", "status", "--json").json()["delay_seconds"] == {"a": 7, "b": 0}


def _says(node: Node, words: str) -> bool:
    return words in json.dumps(node.rpc("cluster.status")["arbiter"])
