"""Split brain: made by force, told on both nodes, and left by the very commands that `status` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually


def part(cluster: Cluster) -> None:
    """Both nodes write what the other lacks, then meet again."""
    a, b = cluster.nodes
    a.ok("disconnect", "r0")
    b.wait("disconnected")
    a.write(0, b"on a...." * 512)
    b.ok("promote", "r0", "--force")
    b.write(4096, b"on b...." * 512)
    a.ok("connect", "r0")
    for node in cluster.nodes:
        told(node)


def told(node: Node) -> None:
    """Wait until a node tells of the split brain."""
    eventually(lambda: advised(node) == "split-brain", f"{node.name} tells of the split brain")


def advised(node: Node) -> str:
    """The code of the gravest advice."""
    entries = node.status()["advice"]
    return str(entries[0]["code"]) if entries else ""


def commands(node: Node) -> str:
    """What ``status`` says to run where this node's changes are given up, cut out as a person would."""
    lines = node.status()["advice"][0]["remedy"].splitlines()
    (line,) = (line for line in lines if line.startswith(f"if {node.name} (this node)"))
    return str(line).partition("then: ")[2].partition("; then on")[0]


def follow(node: Node) -> None:
    """Run them in a shell."""
    command = Path(sys.executable).parent / "blockpair"
    environment = {**node.environment, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-c", commands(node)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done


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
    follow(victim)
    keeper.ok("connect", "r0")
    keeper.wait("synced,primary")
    victim.wait("synced,secondary")
    kept, gone = (0, 4096) if keep == "a" else (4096, 0)
    assert keeper.read(kept, 4096) == b"on %b...." % keep.encode() * 512
    assert keeper.read(gone, 4096) == bytes(4096)
    for node in (keeper, victim):
        node.ok("down", "r0")
    length = 16 << 20
    assert a.disk.read_bytes()[: length - (1 << 20)] == b.disk.read_bytes()[: length - (1 << 20)]


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
