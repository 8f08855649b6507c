"""Two nodes, two cables: one of them goes down under load."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.namespace import Namespace
from tests.e2e.nbd_client import Command, NbdClient

SIZE = 64 << 20
BLOCK = 4096
DEPTH = 8
PEER_TIMEOUT_S = 3.0
CABLES = ("cable0", "cable1")


class TwoCables:
    """A cluster whose nodes are namespaces of their own, with a subnet for each cable."""

    def __init__(self, stack: ExitStack, base: Path) -> None:
        self.hosts = []
        for _ in range(2):
            host = Namespace()
            stack.callback(host.close)
            self.hosts.append(host)
        for number, name in enumerate(CABLES):
            first, second = self.hosts
            first.cable(second, name, f"10.9{number}.0.1/24", f"10.9{number}.0.2/24")
        self.cluster = Cluster(base)
        stack.callback(self.cluster.close)
        for node, host in zip(self.cluster.nodes, self.hosts, strict=True):
            node.prefix = host.prefix
            node.port, node.control = 7788, 7789
            config = node.dir / "config/blockpair.toml"
            config.write_text(
                f'[node]\nname = "{node.name}"\nlisten = "0.0.0.0:7788"\n'
                'control = "0.0.0.0:7789"\nkernel_device = "off"\n'
            )
        self._form()

    def _form(self) -> None:
        a, b = self.cluster.nodes
        self.cluster.start()
        a.ok("cluster", "init", "two", *self._addresses(1))
        token = a.rpc("cluster.token")["text"]
        b.ok("cluster", "join", "10.90.0.1:7789", token, *self._addresses(2))
        for node in (a, b):
            with node.disk.open("wb") as disk:
                disk.truncate(SIZE)
        a.ok("create", "r0", "--on", f"a={a.disk},b={b.disk}")
        for node in (a, b):
            node.wait("connected")
        a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
        a.ok("promote", "r0")

    @staticmethod
    def _addresses(host: int) -> list[str]:
        return [word for number in range(2) for word in ("--address", f"10.9{number}.0.{host}")]

    def set(self, cable: int, state: str) -> None:
        """Set a's end of a cable ``up`` or ``down``."""
        self.hosts[0].ip("link", "set", CABLES[cable], state)


@pytest.fixture
def two() -> Iterator[TwoCables]:
    """In sync, a Primary, both paths up."""
    if not Namespace.possible():
        pytest.skip("needs root, unshare, nsenter and ip: network namespaces of its own")
    with ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True))
        try:
            made = TwoCables(stack, Path(base))
        except OSError as error:
            pytest.skip(f"two cables cannot be made here: {error}")
        yield made


@pytest.fixture
def cluster(two: TwoCables) -> Cluster:
    """For the report of a failure."""
    return two.cluster


def peer(node: Node) -> Any:
    """What a node knows of the other."""
    return node.rpc("resource.status", name="r0")["engine"]["peers"][0]


def states(node: Node) -> list[str]:
    """Of its paths."""
    return [path["state"] for path in peer(node)["paths"]]


def losses(*nodes: Node) -> int:
    """How often the nodes' logs tell of a lost connection: the choice of the first source ends one."""
    return sum(node.log.read_text().count("peer.lost") for node in nodes)


class Load:
    """Writes that never stop; the longest time that one was on its way."""

    def __init__(self, node: Node) -> None:
        self.client = NbdClient(node.nbd)
        self.sent: dict[int, float] = {}
        self.count = 0
        self.longest = 0.0

    def run(self, seconds: float) -> None:
        """For so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while len(self.client.in_flight) < DEPTH:
                offset = self.count * 7919 * BLOCK % SIZE
                cookie = self.client.send(Command.WRITE, offset, data=os.urandom(BLOCK)).cookie
                self.sent[cookie] = time.monotonic()
                self.count += 1
            self._reap()

    def _reap(self) -> None:
        request = self.client.reap()
        assert request.error == 0
        self.longest = max(self.longest, time.monotonic() - self.sent.pop(request.cookie))

    def end(self) -> None:
        """Until all is answered."""
        while self.client.in_flight:
            self._reap()
        self.client.close()


def test_a_cable_that_goes_down_under_load_is_a_warning(two: TwoCables) -> None:
    a, b = two.cluster.nodes
    for node in (a, b):
        eventually(lambda: states(node) == ["active", "standby"], "both paths are up")  # noqa: B023
        assert node.cli("status", "r0").code == 0
    before, lost = peer(a)["last_resync"], losses(a, b)
    load = Load(a)
    load.run(0.5)
    two.set(0, "down")
    load.run(PEER_TIMEOUT_S * 1.5)
    for node, address in ((a, "10.90.0.2:7788"), (b, "10.90.0.1:7788")):
        assert states(node) == ["down", "active"]
        shown = node.cli("status", "r0")
        assert shown.code == 4
        assert f"the path {address} to" in shown.out and "ip link" in shown.out
    two.set(0, "up")
    end = time.monotonic() + 30
    while states(a) != ["active", "standby"]:
        assert time.monotonic() < end, peer(a)
        load.run(0.2)
    load.run(0.5)
    load.end()
    print(f"{load.count} writes; the longest took {load.longest:.3f} s")
    assert load.longest < PEER_TIMEOUT_S
    assert peer(a)["connection"] == "Connected"
    assert peer(a)["last_resync"]["elapsed_seconds"] == before["elapsed_seconds"]
    assert losses(a, b) == lost
    a.wait("healthy")
    two.cluster.assert_equal()


def test_both_cables_down_is_an_outage_and_resyncs(two: TwoCables) -> None:
    a, b = two.cluster.nodes
    eventually(lambda: states(a) == ["active", "standby"], "both paths are up")
    load = Load(a)
    load.run(0.3)
    for cable in range(2):
        two.set(cable, "down")
    load.run(PEER_TIMEOUT_S * 1.5)
    load.end()
    a.wait("disconnected")
    shown = a.cli("status", "r0")
    assert shown.code == 4
    assert "10.90.0.2:7788, 10.91.0.2:7788" in shown.out
    two.set(1, "up")
    a.wait("synced")
    assert states(a) == ["down", "active"]
    two.set(0, "up")
    for node in (a, b):
        node.wait("healthy")
    two.cluster.assert_equal()
