"""A node that is gone for good: the other goes on without it, and a successor of its name takes its place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, Node, eventually, free_ports

MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture
def successor(cluster: Cluster) -> Iterator[Node]:
    """Another machine of the name b, not started."""
    base = cluster.base / "new"
    base.mkdir()
    made = Node("b", base, *free_ports(2))
    with made.disk.open("wb") as disk:
        disk.truncate(SIZE)
    try:
        yield made
    finally:
        made.kill()


def _in_use(cluster: Cluster) -> None:
    """r0 in sync on both, and a writes."""
    cluster.form()
    for node in cluster.nodes:
        with node.disk.open("wb") as disk:
            disk.truncate(SIZE)
    devices = ",".join(f"{node.name}={node.disk}" for node in cluster.nodes)
    cluster.a.ok("create", "r0", "--on", devices)
    cluster.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    cluster.a.ok("promote", "r0")
    cluster.a.write(0, b"1" * 4096)


def _peer(node: Node) -> dict[str, object]:
    engine = node.rpc("resource.status", name="r0")["engine"]
    found: dict[str, object] = engine["peers"][0]
    return found


def _advised(node: Node) -> set[str]:
    return {entry["code"] for entry in node.status()["advice"]}


def test_a_successor_takes_the_place_of_a_lost_node(cluster: Cluster, successor: Node) -> None:
    _in_use(cluster)
    a, b = cluster.nodes
    # It replicates: it is not lost. And the other way says what to do.
    assert "r0 replicates with it" in a.refused(3, "cluster", "remove", "b", "--lost", "--yes")
    both = a.refused(3, "cluster", "remove", "b", "--yes")
    assert "blockpair delete r0" in both and "--lost" in both
    assert "cluster remove b --lost" in a.refused(3, "config", "edit", "--set", "node.b.lost=true")
    b.kill()
    a.write(4096, b"2" * 4096)
    done = a.ok("cluster", "remove", "b", "--lost", "--yes").out
    assert "its place, with its copy of r0, is kept" in done
    # Nobody waits for it, or warns of it; a copy is missing all the same.
    shown = a.ok("cluster", "status").out
    assert "lost, no member any more" in shown and "cluster token" in shown
    eventually(lambda: _peer(a)["address"] is None, "a knows that b is nowhere")
    assert "lost" in _advised(a)
    assert a.cli("status").code == 4
    assert "lost" in a.cli("status", "r0").out
    a.ok("config", "edit", "--set", "cluster.name=east")
    assert "marked lost already" in a.refused(1, "cluster", "remove", "b", "--lost", "--yes")
    assert "b is lost" in a.refused(
        1, "create", "r1", "--on", f"a={cluster.base}/r1,b={cluster.base}/r1", "--no-up"
    )
    # Its machine was only off: what it has is worth nothing, and it is told so on both ports.
    b.start()
    b.ok("up", "r0")
    eventually(lambda: "certificate" in str(_peer(b)["untrusted"] or a.log.read_text()), "b is refused")
    assert "was removed from the cluster" in b.cli("cluster", "status").out
    assert _peer(a)["connection"] != "Connected"
    b.kill()
    # A daemon that starts anew knows it, too.
    a.stop()
    a.start()
    a.wait("primary")
    assert _peer(a)["address"] is None
    a.write(8192, b"3" * 4096)
    # Another machine, elsewhere, by the same name; a is in use all the time.
    successor.start()
    # Its disks are its own: what b has is not there.
    hidden = (b.dir / "state/metadata").rename(b.dir / "away")
    assert "blockpair create r0 --anew" in cluster.admit(successor)
    hidden.rename(b.dir / "state/metadata")
    successor.ok("cluster", "status")
    eventually(lambda: not any(m["lost"] for m in a.rpc("cluster.status")["members"]), "b is a member")
    a.ok("cluster", "status")
    metadata = str(successor.dir / "state/metadata/r0.meta")
    successor.ok("create", "r0", "--anew", "--yes", "--device", str(successor.disk), "--metadata", metadata)
    successor.ok("up", "r0")
    successor.wait("synced", timeout="60s")
    a.wait("primary,synced")
    a.write(12288, b"4" * 4096)
    cluster.b = successor
    content = cluster.assert_equal()
    assert content[:16384] == b"1" * 4096 + b"2" * 4096 + b"3" * 4096 + b"4" * 4096
    assert a.status()["healthy"]
    # The old one stays out.
    b.start()
    assert "was removed from the cluster" in b.cli("cluster", "status").out
    assert a.status()["healthy"]


def test_a_lost_node_comes_back_with_its_old_disk(cluster: Cluster) -> None:
    _in_use(cluster)
    a, b = cluster.nodes
    b.kill()
    a.write(MIB, b"2" * 4096)
    a.ok("cluster", "remove", "b", "--lost", "--yes")
    a.ok("config", "edit", "--set", "resource.r0.timeouts.peer=4s")
    b.start()
    # As long as it is in use there, nothing is forgotten.
    b.ok("up", "r0")
    assert "r0 is up here" in b.refused(3, "cluster", "remove", "b", "--lost", "--yes")
    # Nothing here comes right by itself, and status says so.
    eventually(lambda: "no-member" in _advised(b), "b knows that it is no member")
    shown = b.cli("status").out
    assert "blockpair cluster remove b --lost" in shown and "by itself" not in shown
    assert "blockpair cluster remove b --lost" in b.cli("cluster", "status").out
    b.ok("down", "r0")
    assert "is as it was" in b.ok("cluster", "remove", "b", "--lost", "--yes").out
    assert "this node is in no cluster" in b.cli("status").out
    joined = cluster.admit(b)
    assert "r0: its copy is here" in joined and "blockpair up r0" in joined
    # What was rendered for it before is no person's edit.
    assert b.rpc("resource.status")["configuration"]["advice"] == []
    assert 'peer = "4s"' in (b.dir / "config/resources/r0.toml").read_text()
    b.ok("up", "r0")
    b.wait("synced")
    a.wait("primary,synced")
    # Its own disk is brought up to date by what it lacks, and no more.
    finished = [event["text"] for event in a.status()["events"] if event["name"] == "resync.finished"]
    assert len(finished) == 2
    assert f"{SIZE} bytes" in finished[0] and f"{SIZE} bytes" not in finished[1], finished
    cluster.assert_equal()


def test_a_node_that_is_a_member_is_not_forgotten_with_its_copies(cluster: Cluster) -> None:
    _in_use(cluster)
    b = cluster.b
    b.ok("down", "r0")
    assert "for a it is a member" in b.refused(3, "cluster", "remove", "b", "--lost", "--yes")
    assert b.rpc("cluster.status")["state"] == "member"


def test_who_replicates_is_not_lost_though_its_control_port_is_not_reached(cluster: Cluster) -> None:
    _in_use(cluster)
    a, b = cluster.nodes
    # b, which would refuse, cannot be asked.
    b.kill()
    assert a.cli("config", "edit", "--set", f"node.b.control_port={free_ports(1)[0]}").code == 4
    b.start()
    a.wait("connected")
    assert "r0 replicates with it" in a.refused(3, "cluster", "remove", "b", "--lost", "--yes")
    a.wait("primary,synced")


def test_a_lost_node_is_forgotten_with_its_resources(cluster: Cluster) -> None:
    _in_use(cluster)
    a, b = cluster.nodes
    b.kill()
    a.ok("cluster", "remove", "b", "--lost", "--yes")
    assert "has a copy of r0" in a.refused(3, "cluster", "remove", "b", "--yes")
    a.ok("down", "r0")
    assert "b: it is lost" in a.ok("delete", "r0", "--yes").out
    a.ok("cluster", "remove", "b", "--yes")
    assert [member["name"] for member in a.rpc("cluster.status")["members"]] == ["a"]


def test_an_address_changes_while_a_resource_is_in_use(cluster: Cluster) -> None:
    _in_use(cluster)
    a, b = cluster.nodes
    a.ok("config", "edit", "--set", 'node.b.addresses=["127.0.0.1", "127.0.0.2"]')
    eventually(lambda: len(_peer(a)["paths"]) == 2, "a knows both")  # type: ignore[arg-type]
    a.wait("primary,synced")
    a.write(4096, b"2" * 4096)
    cluster.assert_equal()
    # b does not listen there, knows it, and says it: the cable is not to blame.
    eventually(lambda: len(_peer(b)["paths"]) == 2, "b knows both")  # type: ignore[arg-type]
    (entry,) = [entry for entry in b.status()["advice"] if entry["code"] == "path-down"]
    assert f"to 127.0.0.2:{b.port}, here, is down" in entry["text"]
    assert f'listen = "127.0.0.1:{b.port}"' in entry["text"] and "cable" not in entry["remedy"]
    assert f"127.0.0.2:{b.port} (own) down" in b.cli("status").out
