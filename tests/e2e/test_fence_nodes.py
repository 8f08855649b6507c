"""Two nodes and no third: each has the other's power, and who has switched the other off goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.fence import AGENT
from tests.e2e.trio import Trio, Writer, arbitration, engine, kept


class Duo(Trio):
    """As `Trio`, with fencing in the witness's place: the power of a node is its daemon's life."""

    def __init__(self, base: Path, *, wired: bool = False) -> None:
        super().__init__(base, wired=wired)
        self.agent = base / "fence_test"
        shutil.copy(AGENT, self.agent)
        self.agent.chmod(0o755)
        self.head_start = {"a": "60s", "b": "0s"}
        self.modes = {"a": "works", "b": "works"}

    def begin(self) -> None:
        """The cluster, without an arbiter yet."""
        if self._wired:
            self.wire()
        self.cluster.start()
        self.a.ok("cluster", "init", "test")
        token = self.a.rpc("cluster.token")["text"]
        address = ("--address", "127.0.0.2") if self._wired else ()
        self.b.ok("cluster", "join", f"127.0.0.1:{self.a.control}", token, *address)

    def form(self) -> None:
        self.begin()
        self.arbitrate()

    def arbitrate(self) -> None:
        """Make fencing the arbiter, or change it."""
        settings = ["arbiter.kind=fence"]
        for node in self.cluster.nodes:
            self.plugged(node)
            settings += [
                f"fence.{node.name}.delay={self.head_start[node.name]}",
                f"fence.{node.name}.levels=[[{self.device(node)}]]",
            ]
        self.a.ok("config", "edit", *(word for setting in settings for word in ("--set", setting)))

    def device(self, node: Node) -> str:
        """The fence device of a node, as TOML."""
        options = {
            "pid_file": str(self.pid_file(node)),
            "log": str(self.log(node)),
            "mode": self.modes[node.name],
        }
        table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
        return f'{{ agent = "{self.agent}", timeout = "20s", options = {{ {table} }} }}'

    def pid_file(self, node: Node) -> Path:
        """Says which process is the node."""
        return node.dir / "power.pid"

    def log(self, node: Node) -> Path:
        """What the device of the node was asked for."""
        return node.dir / "power.log"

    def plugged(self, node: Node) -> None:
        """The node as it runs now is what its device feeds."""
        assert node.process is not None
        self.pid_file(node).write_text(str(node.process.pid))

    def switched_off(self, node: Node) -> bool:
        """Whether the node was ever fenced."""
        asked = self.log(node).read_text().splitlines() if self.log(node).exists() else []
        return any(json.loads(line)["input"].startswith("action=off\n") for line in asked)

    def boot(self, node: Node) -> None:
        """Start it as after a power cut: nothing of its run directory is left."""
        node.kill()
        for marker in (node.dir / "run/met").glob("*"):
            marker.unlink()
        node.launch()
        self.plugged(node)
        node.await_daemon()

    def synced(self, profile: str = "default", *options: str) -> None:
        super().synced(profile, *options)
        eventually(lambda: self.met(self.a) and self.met(self.b), "both have met")

    def met(self, node: Node) -> bool:
        """Whether the node remembers that it has met its peer."""
        return (node.dir / "run/met/r0").exists()

    def record(self, node: Node) -> Any:
        """The node's own record of r0's configuration."""
        [file] = (node.dir / "state/fence").glob("*/*.json")
        return json.loads(file.read_text())


@pytest.fixture
def duo(base: Path) -> Iterator[Duo]:
    made = Duo(base)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def wired(base: Path) -> Iterator[Duo]:
    made = Duo(base, wired=True)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """For the report of a failure."""
    made = request.getfixturevalue("wired" if "wired" in request.fixturenames else "duo")
    assert isinstance(made, Duo)
    return made.cluster


# -- Its configuration


def test_a_pair_that_cannot_fence_each_other_is_refused(duo: Duo, cluster: Cluster) -> None:
    duo.begin()
    duo.create()
    told = duo.a.refused(1, "config", "edit", "--set", "arbiter.kind=fence")
    assert "fence.a: is missing" in told and "add [fence.a]" in told
    duo.head_start = {"a": "0s", "b": "0s"}
    settings = ["arbiter.kind=fence"]
    for node in cluster.nodes:
        settings += [f"fence.{node.name}.levels=[[{duo.device(node)}]]"]
    told = duo.a.refused(1, "config", "edit", *(word for one in settings for word in ("--set", one)))
    assert "fence.a.delay: is the same as b's" in told
    duo.head_start = {"a": "60s", "b": "0s"}
    duo.arbitrate()
    assert 'delay = "60s"' in duo.b.ok("config", "show").out


def test_a_device_that_fails_is_in_the_status_before_it_is_needed(duo: Duo, cluster: Cluster) -> None:
    duo.begin()
    duo.modes["b"] = "fails:monitor"
    duo.arbitrate()

    def told() -> bool:
        arbiter = duo.a.cli("cluster", "status", "--json").json()["arbiter"]
        return not arbiter["reachable"] and "b: 1.1 fence_test: monitor: exit code 1" in arbiter["why"]

    eventually(told, "a's cluster status names b's device")
    assert duo.a.cli("cluster", "status").code == 4
    assert duo.a.cli("fence", "status").code == 4
    duo.modes["b"] = "works"
    duo.arbitrate()
    eventually(
        lambda: duo.a.cli("cluster", "status", "--json").json()["arbiter"]["reachable"], "it works again"
    )
    assert not duo.switched_off(duo.a) and not duo.switched_off(duo.b)


def test_a_node_that_is_removed_takes_its_fence_along(duo: Duo, cluster: Cluster) -> None:
    duo.form()
    duo.a.ok("cluster", "remove", "b", "--yes")
    assert "fence.b" not in duo.a.ok("config", "show").out


# -- Who goes on


def test_the_survivor_takes_over_once_the_other_is_seen_off(duo: Duo, cluster: Cluster) -> None:
    duo.head_start = {"a": "0s", "b": "60s"}
    duo.synced("fast")
    writer = Writer(duo.a)
    writer.wrote(50)
    duo.a.kill()
    epoch = duo.entered("b", "b")
    writer.ended()
    assert duo.switched_off(duo.a) and not duo.switched_off(duo.b)
    assert kept(duo.b.disk, writer.acknowledged)
    assert duo.record(duo.b) == {
        "epoch": epoch,
        "primary": "b",
        "in_sync": ["b"],
        "name": "r0",
        "bound": False,
    }
    # Switched on again it fences nobody, learns who went on, and rejoins by itself.
    duo.boot(duo.a)
    duo.entered("b", "a", "b")
    duo.b.wait("synced")
    assert not duo.switched_off(duo.b)
    cluster.assert_equal(duo.b)


def test_a_surviving_primary_goes_on_once_the_other_is_seen_off(duo: Duo, cluster: Cluster) -> None:
    duo.synced("fast")
    writer = Writer(duo.a)
    writer.wrote(50)
    duo.b.kill()
    writer.wrote(100)
    writer.stop()
    duo.entered("a", "a")
    assert duo.switched_off(duo.b) and not duo.switched_off(duo.a)


@pytest.mark.parametrize("end", ["down", "restart"])
def test_a_secondary_that_ends_in_good_order_is_not_switched_off(
    duo: Duo, cluster: Cluster, end: str
) -> None:
    duo.synced("fast")
    writer = Writer(duo.a)
    writer.wrote(50)
    if end == "down":
        duo.b.ok("down", "r0")
    else:
        duo.b.stop()
    writer.wrote(100)
    duo.entered("a", "a")
    assert not duo.switched_off(duo.b)
    if end == "down":
        duo.b.ok("up", "r0")
    else:
        duo.b.launch()
        duo.plugged(duo.b)
        duo.b.await_daemon()
    duo.entered("a", "a", "b")
    writer.stop()
    eventually(lambda: not duo.record(duo.b)["bound"], "b is bound no more")
    cluster.assert_equal()
    # From here on it is fenced again.
    duo.b.kill()
    eventually(lambda: duo.switched_off(duo.b), "b is switched off")


def test_without_proof_the_writes_wait(duo: Duo, cluster: Cluster) -> None:
    duo.modes["b"] = "lies"
    duo.synced("fast")
    writer = Writer(duo.a, deadline=120)
    writer.wrote(10)
    with duo.b.silent():
        eventually(lambda: arbitration(duo.a)["suspended"] is not None, "writes wait")
        eventually(lambda: duo.switched_off(duo.b), "b was to be switched off")
        eventually(
            lambda: "is not proved off" in json.dumps(duo.a.cli("status", "r0", "--json").json()),
            "status says why",
        )
        assert arbitration(duo.a)["configuration"]["in_sync"] == ["a", "b"]
    writer.wrote(10)
    writer.stop()
    cluster.assert_equal()


def test_where_the_link_is_cut_one_lives(wired: Duo, cluster: Cluster) -> None:
    wired.synced("fast")
    writer = Writer(wired.a, deadline=120)
    writer.wrote(50)
    wired.cut()
    writer.wrote(100)
    writer.stop()
    assert wired.b.process is not None and wired.b.process.poll() is not None, "b is off"
    assert wired.a.process is not None and wired.a.process.poll() is None
    # b, on again and still cut off, takes over from nobody.
    wired.boot(wired.b)
    eventually(lambda: engine(wired.b)["disk"] != "Diskless", "b's resource is up")
    assert not wired.switched_off(wired.a)
    wired.mend()
    wired.entered("a", "a", "b")
    wired.a.wait("synced")
    cluster.assert_equal()


def test_a_cold_start_waits_for_both(duo: Duo, cluster: Cluster) -> None:
    """b was lost, and a went on; then a was lost too. What b remembers is from before all that."""
    duo.head_start = {"a": "0s", "b": "1s"}
    duo.synced("fast")
    duo.b.kill()
    duo.entered("a", "a")
    duo.a.kill()
    duo.boot(duo.b)
    assert duo.record(duo.b)["in_sync"] == ["a", "b"]
    told = duo.b.cli("promote", "r0")
    assert told.code != 0
    assert engine(duo.b)["role"] == "Secondary"
    assert not duo.switched_off(duo.a)
    duo.boot(duo.a)
    eventually(lambda: duo.met(duo.a) and duo.met(duo.b), "they have met")
    duo.a.ok("promote", "r0")
    duo.entered("a", "a", "b")
    cluster.assert_equal()
