"""Split brain: made by force, told on both nodes, and left by the very commands that `status` prints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually


def part(cluster: Cluster) -> None:
    """Both nodes write what the other lacks, then meet again."""
    a, b = cluster.nodes
    a.ok("disconnect", "r0")
    b.wait("disconnected")
    a.write(0, b"on a...." * 512)
    with a.silent():
        b.ok("promote", "r0", "--force", "--yes")
    b.write(4096, b"on b...." * 512)
    a.ok("connect", "r0")
    for node in cluster.nodes:
        told(node)
        assert node.cli("status").code == 4


def told(node: Node) -> None:
    """Wait until a node tells of the split brain."""
    eventually(lambda: advised(node) == "split-brain", f"{node.name} tells of the split brain")


def advised(node: Node) -> str:
    """The code of the gravest advice."""
    entries = node.status()["advice"]
    return str(entries[0]["code"]) if entries else ""


@pytest.mark.parametrize(
    "options", [(), ("--metadata", "internal", "--block-size", "64K", "--protocol", "B")]
)
@pytest.mark.parametrize("keep", ["a", "b"])
def test_the_advice_leads_out(cluster: Cluster, keep: str, options: tuple[str, ...]) -> None:
    cluster.start()
    cluster.create(16 << 20, *options)
    cluster.up()
    a, b = cluster.nodes
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    b.wait("synced")
    a.ok("promote", "r0")
    part(cluster)
    keeper, victim = (a, b) if keep == "a" else (b, a)
    screen = keeper.cli("status", "r0")
    assert screen.code == 4 and "SPLIT BRAIN" in screen.out
    assert keeper.status()["engine"]["peers"][0]["split_brain"] is True
    # The commands as the advice prints them; the one is asked for a decision on either node.
    lines = [line.partition("blockpair ")[2] for line in keeper.status()["advice"][0]["remedy"].splitlines()]
    plan, losses, demote, discard, _connect = (line.split() for line in lines)
    assert keeper.cli(*plan).code == 4
    assert victim.name in keeper.ok(*losses).out
    victim.ok(*demote)
    keeper.ok(*(victim.name if word == "NODE" else word for word in discard), "--yes", "--wait")
    keeper.wait("synced,primary")
    victim.wait("synced,secondary")
    kept, gone = (0, 4096) if keep == "a" else (4096, 0)
    assert keeper.read(kept, 4096) == b"on %b...." % keep.encode() * 512
    assert keeper.read(gone, 4096) == bytes(4096)
    for node in (keeper, victim):
        node.ok("down", "r0")
    length = 16 << 20
    assert a.disk.read_bytes()[: length - (1 << 20)] == b.disk.read_bytes()[: length - (1 << 20)]


def test_no_force_makes_a_second_primary_while_the_first_says_that_it_is_one(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    b.ok("disconnect", "r0")
    a.wait("disconnected")
    for force in ([], ["--force", "--yes"]):
        said = b.refused(3, "promote", "r0", *force)
        assert "a is Primary of r0" in said and "blockpair demote r0" in said
    assert b.status()["engine"]["role"] == "Secondary"
    # Silence is a doubt, and a short one.
    with a.silent():
        assert "a is not connected: it may be Primary" in b.refused(3, "promote", "r0")
        began = time.monotonic()
        b.rpc("resource.promote", name="r0", force=True)
        assert time.monotonic() - began < 5
    # It is what it is already.
    for node in cluster.nodes:
        node.ok("promote", "r0")


def test_a_peer_that_says_that_it_is_secondary_leaves_the_doubt(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.ok("demote", "r0")
    b.ok("disconnect", "r0")
    a.wait("disconnected")
    assert "--force" in b.refused(3, "promote", "r0")
    # The last Primary needs none, unless the other took over.
    a.ok("promote", "r0")
    a.ok("demote", "r0")
    b.ok("promote", "r0", "--force", "--yes")
    assert "b is Primary of r0" in a.refused(3, "promote", "r0")


@pytest.mark.parametrize(("typed", "code"), [("r1", 1), ("r0", 0)])
def test_force_says_what_it_risks_and_has_the_name_typed(cluster: Cluster, typed: str, code: int) -> None:
    cluster.synced()
    b = cluster.b
    cluster.a.kill()
    b.wait("disconnected")
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "blockpair.cli.main", "promote", "r0", "--force"],
        env=b.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as asking:
        os.close(theirs)
        assert asking.stderr is not None
        os.write(ours, f"{typed}\n".encode())
        said = asking.stderr.read()
        assert asking.wait(timeout=60) == code, said
    os.close(ours)
    assert "a was last heard of" in said and "as Primary, UpToDate" in said
    assert "at most 16 MiB" in said and "Type the resource's name" in said
    assert b.status()["engine"]["role"] == ("Secondary" if code else "Primary")


def test_nothing_is_overwritten_until_then(cluster: Cluster) -> None:
    cluster.synced()
    part(cluster)
    a, b = cluster.nodes
    for node in cluster.nodes:
        told = node.refused(1, "sync", "r0", "--from", "a")
        assert "overwritten" not in told
        node.ok("connect", "r0")
    assert a.read(0, 4096) == b"on a...." * 512
    assert b.read(4096, 4096) == b"on b...." * 512


def test_sync_from_overwrites_nothing_once_there_is_data(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(0, b"keep me!" * 512)
    done = b.ok("sync", "r0", "--from", "b")
    assert "starts nothing" in done.err and "overwritten" not in done.err
    assert a.read(0, 4096) == b"keep me!" * 512


def test_resolve_names_the_files_that_each_side_would_lose(cluster: Cluster, tmp_path: Path) -> None:
    a, b = cluster.nodes
    size, block = 16 << 20, 4096
    for name in ("on-a", "on-b", "untouched"):
        # Megabytes apart: what was written near to it is suspected too.
        (tmp_path / name).write_bytes(name.encode() * 200_000)
    make = ["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-b", str(block), "-d", str(tmp_path), str(a.disk), "16M"]
    subprocess.run(make, check=True)
    places = {
        name: int(
            subprocess.run(
                ["/usr/sbin/debugfs", "-R", f"blocks /{name}", str(a.disk)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()[0]
        )
        for name in ("on-a", "on-b")
    }
    with b.disk.open("wb") as disk:
        disk.truncate(size)
    cluster.start()
    for node in cluster.nodes:
        node.ok("create", "r0", "--device", str(node.disk), *cluster.peer_option(node), "--force")
    cluster.up()
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    b.wait("synced")
    a.ok("promote", "r0")
    a.ok("disconnect", "r0")
    b.wait("disconnected")
    a.write(places["on-a"] * block, b"A" * block)
    with a.silent():
        b.ok("promote", "r0", "--force", "--yes")
    b.write(places["on-b"] * block, b"B" * block)
    a.ok("connect", "r0")
    for node in cluster.nodes:
        told(node)
        answer = node.ok("resolve", "r0", "--json").json()
        assert [side["node"] for side in answer["sides"]] == [node.name, cluster.peer_of(node).name]
        assert answer["plan"]["decision"]["direction"] == "split-brain"
        for side in answer["sides"]:
            loss, files = side["loss"], side["files"]
            assert loss["peer"] == ("a" if side["node"] == "b" else "b")
            assert (loss["changed_bytes"], loss["possible_bytes"]) == (block, 0)
            assert files["file_system"] == "ext4" and f"/on-{side['node']}" in files["paths"]
            assert side["diverged_at_s"] <= side["changed_at_s"] <= time.time()
            assert time.time() - side["diverged_at_s"] < 300
    text = a.ok("resolve", "r0").out
    assert "/on-a" in text and "/on-b" in text and "--discard NODE" in text
    # A peer that is away says nothing; this side is shown all the same.
    b.kill()
    text = a.ok("resolve", "r0").out
    assert "/on-a" in text and "what b would lose is not known" in text
    a.refused(1, "resolve", "r9")
