"""A split brain resolved: by a person on either node, or by a policy. The loser's bundle is its device as it
was, and without one nothing is discarded.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from threading import Thread

import pytest

from blockpair.errors import BlockpairError
from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.nbd_client import NbdClient
from tests.e2e.test_bundle import exporting
from tests.e2e.test_split_brain import part, told

BLOCK = 4096


def split(cluster: Cluster) -> bytes:
    """A split brain with blocks that only b changed, only a changed, and both; b's device."""
    cluster.synced()
    cluster.a.write(0, os.urandom(64 * BLOCK))
    part(cluster)
    cluster.a.write(30 * BLOCK, os.urandom(10 * BLOCK))
    cluster.b.write(35 * BLOCK, os.urandom(10 * BLOCK))
    cluster.b.write(3000 * BLOCK, os.urandom(300 * BLOCK))
    return cluster.b.disk.read_bytes()


def discard_b(cluster: Cluster, at: Node, *options: str) -> str:
    """Give up b's changes by a command on either node; what it said."""
    cluster.b.ok("demote", "r0")
    done = at.ok("resolve", "r0", "--discard", "b", "--yes", "--wait", *options)
    cluster.b.wait("synced")
    return done.out


@pytest.mark.parametrize("at", ["a", "b"])
def test_the_bundle_is_the_loser_s_device(cluster: Cluster, at: str) -> None:
    was = split(cluster)
    node = cluster.a if at == "a" else cluster.b
    said = discard_b(cluster, node)
    assert cluster.assert_equal() != was
    (entry,) = cluster.b.ok("bundle", "list", "r0", "--json").json()
    assert entry["bundle"]["facts"]["node"] == "b" and entry["bundle"]["facts"]["peer"] == "a"
    assert f"saved on b in {entry['path']}" in said
    assert cluster.a.ok("bundle", "list", "r0", "--json").json() == []
    cluster.b.ok("bundle", "show", "r0")
    image = cluster.b.dir / "image"
    cluster.b.ok("bundle", "restore", "r0", "--to", str(image))
    assert image.read_bytes() == was
    with exporting(cluster.b, "r0") as (_, served):
        # The resync has overwritten what the bundle has, and nothing else.
        assert served["changed_blocks"] == 0
        with NbdClient(Path(served["socket"])) as client:
            for offset in range(0, len(was), 1 << 20):
                assert client.read(offset, 1 << 20) == was[offset : offset + (1 << 20)], offset
            # What is written from now on is never shown as the loser's.
            cluster.a.write(2000 * BLOCK, b"new!" * 1024)
            with pytest.raises(OSError):
                client.read(2000 * BLOCK, BLOCK)
            assert client.read(2001 * BLOCK, BLOCK) == was[2001 * BLOCK : 2002 * BLOCK]


def test_the_blocks_go_back_after_a_stop_and_a_crash(cluster: Cluster) -> None:
    was = split(cluster)
    discard_b(cluster, cluster.b)
    cluster.a.write(2000 * BLOCK, b"new!" * 1024)
    # What changed since outlives a stop in good order, and is not believed after a crash.
    cluster.b.stop()
    cluster.b.start()
    cluster.b.wait("synced")
    with exporting(cluster.b, "r0") as (_, served):
        assert served["changed_blocks"] == 1
    cluster.b.kill()
    cluster.b.start()
    with exporting(cluster.b, "r0") as (_, served):
        assert served["changed_blocks"] is None
    cluster.b.wait("synced")
    cluster.a.ok("demote", "r0")
    cluster.b.ok("promote", "r0")
    cluster.b.ok("bundle", "restore", "r0", "--yes")
    now = cluster.assert_equal(cluster.b)
    differing = {
        at // BLOCK for at in range(0, len(was), BLOCK) if now[at : at + BLOCK] != was[at : at + BLOCK]
    }
    assert differing == {2000}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
@pytest.mark.parametrize("at", ["a", "b"])
def test_without_room_nothing_is_discarded(cluster: Cluster, at: str) -> None:
    was = split(cluster)
    node = cluster.a if at == "a" else cluster.b
    folder = cluster.b.dir / "state/bundles"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    try:
        cluster.b.ok("demote", "r0")
        said = node.refused(1, "resolve", "r0", "--discard", "b", "--yes")
        assert "no room" in said and "--no-bundle" in said
        assert cluster.b.disk.read_bytes() == was
        assert list(folder.glob("**/*.bpb*")) == []
        for each in cluster.nodes:
            told(each)
        # Both copies stay usable.
        cluster.a.ok("demote", "r0")
        cluster.b.ok("promote", "r0", "--force", "--yes")
        assert cluster.b.read(3000 * BLOCK, BLOCK) == was[3000 * BLOCK : 3001 * BLOCK]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    discard_b(cluster, node)
    assert len(list(folder.glob("r0/*.bpb"))) == 1
    cluster.assert_equal()


def test_no_bundle_is_recorded(cluster: Cluster) -> None:
    split(cluster)
    said = discard_b(cluster, cluster.a, "--no-bundle")
    assert "bundle" not in said
    assert cluster.b.ok("bundle", "list", "--json").json() == []
    cluster.assert_equal()
    for node in cluster.nodes:
        recorded = node.ok("history", "r0", "--json").json()["entries"]
        (entry,) = (entry for entry in recorded if entry["what"] == "split_brain.resolved")
        assert (entry["fields"]["victim"], entry["fields"]["bundle"]) == ("b", "none")
        # Who decided is known where it was decided.
        assert ("via blockpair resolve" in (entry["by"] or "")) is (node is cluster.a)


def test_a_primary_is_never_discarded(cluster: Cluster) -> None:
    was = split(cluster)
    for node in cluster.nodes:
        said = node.refused(3, "resolve", "r0", "--discard", "b", "--yes")
        assert "b is Primary" in said and "demote" in said
        # The engine's own refusal, not just the command's look at it.
        with pytest.raises(Exception, match="Primary") as refused:
            node.rpc("resource.resolve", name="r0", victim="b")
        assert getattr(refused.value, "exit_code", None) == 3
    assert cluster.b.disk.read_bytes() == was


def test_what_is_asked_before_anything_is_given_up(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    said = a.refused(1, "resolve", "r0", "--discard", "b", "--yes")
    assert "in no split brain" in said
    part(cluster)
    b.ok("demote", "r0")
    said = a.refused(2, "resolve", "r0", "--discard", "b")
    assert "b would lose its changes" in said and "KiB" in said and "--yes" in said
    assert "gone for good" in a.refused(2, "resolve", "r0", "--discard", "b", "--no-bundle")
    assert "no node of r0" in a.refused(1, "resolve", "r0", "--discard", "c", "--yes")
    a.refused(2, "resolve", "r0", "--wait")
    b.ok("down", "r0")
    assert "cannot be asked" in a.refused(1, "resolve", "r0", "--discard", "b", "--yes")
    assert a.status()["engine"]["peers"][0]["split_brain"] is True
    # A node that has forgotten of it, being started anew, decides as well.
    b.ok("up", "r0")
    b.ok("resolve", "r0", "--discard", "b", "--yes", "--wait")
    assert a.read(0, 4096) == b"on a...." * 512 and a.read(4096, 4096) == bytes(4096)
    cluster.assert_equal()


def configured(cluster: Cluster, *options: tuple[str, ...]) -> None:
    """From nothing to r0 in sync, a Primary; ``options`` of create, a node."""
    cluster.start()
    for node, chosen in zip(cluster.nodes, options, strict=True):
        with node.disk.open("wb") as disk:
            disk.truncate(16 << 20)
        node.ok("create", "r0", "--device", str(node.disk), *cluster.peer_option(node), *chosen)
    cluster.up()
    cluster.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    cluster.b.wait("synced")
    cluster.a.ok("promote", "r0")


def test_the_priority_decides_by_itself(cluster: Cluster) -> None:
    policy = ("--split-brain", "priority", "--priority")
    configured(cluster, (*policy, "1"), (*policy, "2"))
    a, b = cluster.nodes
    part(cluster)
    # Both are Primary: nobody is discarded under an application.
    assert "Primary" in a.status()["advice"][0]["text"]
    a.ok("demote", "r0")
    plan = a.cli("plan", "r0", "--json")
    assert plan.code == 4
    assert (plan.json()["decision"]["victim"], plan.json()["decision"]["by"]) == ("a", "priority")
    a.ok("connect", "r0")
    b.ok("connect", "r0")
    a.wait("synced,secondary")
    b.wait("synced,primary")
    assert b.read(4096, 4096) == b"on b...." * 512 and b.read(0, 4096) == bytes(4096)
    cluster.assert_equal(b)
    (entry,) = a.ok("bundle", "list", "r0", "--json").json()
    assert "priority" in entry["bundle"]["facts"]["why"]


def test_a_side_that_changed_nothing_gives_way_by_itself(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.ok("disconnect", "r0")
    b.wait("disconnected")
    a.write(0, b"on a...." * 512)
    with a.silent():
        b.ok("promote", "r0", "--force", "--yes")
    b.ok("demote", "r0")
    a.ok("connect", "r0")
    a.wait("synced,primary")
    b.wait("synced,secondary")
    assert a.read(0, 4096) == b"on a...." * 512
    cluster.assert_equal()
    eventually(lambda: b.status()["healthy"], "b is as if nothing had been")
    # It had nothing to save.
    assert b.ok("bundle", "list", "--json").json() == []


@pytest.mark.parametrize("after_ms", [5, 20, 40, 80])
def test_a_victim_that_is_killed_meanwhile_loses_nothing_unsaved(cluster: Cluster, after_ms: int) -> None:
    was = split(cluster)
    a, b = cluster.nodes
    b.ok("demote", "r0")

    def decide() -> None:
        # Whether it came to an end before the kill, after it or never is what the rest is about.
        with contextlib.suppress(BlockpairError):
            a.rpc("resource.resolve", name="r0", victim="b")

    deciding = Thread(target=decide)
    deciding.start()
    deciding.join(after_ms / 1000)
    b.kill()
    b.start()
    deciding.join(60)
    assert not deciding.is_alive()
    if a.status()["engine"]["peers"][0]["split_brain"]:
        assert b.disk.read_bytes() == was
        a.ok("resolve", "r0", "--discard", "b", "--yes")
    b.wait("synced")
    now = cluster.assert_equal()
    with exporting(b, "r0") as (_, served), NbdClient(Path(served["socket"])) as client:
        for at in range(0, len(was), BLOCK):
            if now[at : at + BLOCK] != was[at : at + BLOCK]:
                assert client.read(at, BLOCK) == was[at : at + BLOCK], at
