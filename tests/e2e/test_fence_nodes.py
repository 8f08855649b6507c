"""Two nodes and no third: each has the other's power, and who has switched the other off goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.duo import Duo
from tests.e2e.trio import Writer, arbitration, engine, kept


@pytest.fixture
def wired(base: Path) -> Iterator[Duo]:
    """The link between the nodes can be cut."""
    with closing(Duo(base, wired=True)) as made:
        yield made


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
