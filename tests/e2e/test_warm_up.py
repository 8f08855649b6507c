"""What one node reads most is in the other's memory when that takes its place, and is true."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import Cluster, Node, eventually

REGION = 64 << 10
HOT = range(0, 8 << 20, 1 << 20)


def _warm_up(node: Node) -> dict[str, int]:
    status: dict[str, int] = node.status()["engine"]["warm_up"]
    return status


def _read_until_known(primary: Node, secondary: Node) -> None:
    for offset in HOT:
        primary.write(offset, bytes([offset >> 20]) * 4096)
        primary.read(offset, 4096)
    eventually(lambda: _warm_up(secondary)["known_bytes"] == len(HOT) * REGION, "what is hot was told")


def _needs_a_disk(node: Node) -> None:
    if not node.status()["engine"]["backing"]["direct"]:
        pytest.skip("files here lie in memory or behind the page cache: nothing is remembered in the engine")


def test_a_planned_switchover_finds_what_is_hot_in_memory(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    _needs_a_disk(b)
    assert "is Primary" in a.refused(1, "warm-up", "r0")
    _read_until_known(a, b)
    assert "512 KiB" in b.ok("warm-up", "r0").out
    assert _warm_up(b)["held_bytes"] == len(HOT) * REGION
    a.write(0, b"newer..." * 512)
    assert _warm_up(b)["held_bytes"] == (len(HOT) - 1) * REGION
    a.ok("demote", "r0")
    b.ok("promote", "r0")
    eventually(lambda: _warm_up(b)["held_bytes"] == len(HOT) * REGION, "what was written was read anew")
    assert b.read(0, 4096) == b"newer..." * 512
    assert b.read(1 << 20, 4096) == b"\1" * 4096
    assert _warm_up(b)["answered_reads"] == 2
    b.write(1 << 20, b"newest.." * 512)
    assert b.read(1 << 20, 4096) == b"newest.." * 512
    assert _warm_up(b)["answered_reads"] == 2


def test_a_survivor_reads_ahead_by_itself_unless_it_is_told_not_to(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    _needs_a_disk(b)
    _read_until_known(a, b)
    a.kill()
    b.ok("promote", "r0", "--force", "--yes")
    eventually(lambda: _warm_up(b)["held_bytes"] == len(HOT) * REGION, "what is hot was read")
    assert b.read(2 << 20, 4096) == b"\2" * 4096
    assert _warm_up(b)["answered_reads"] == 1
    b.ok("down", "r0")
    file = b.dir / "config/resources/r0.toml"
    file.write_text(f'warm_up = "0"\n{file.read_text()}')
    b.ok("up", "r0")
    b.ok("promote", "r0", "--force", "--yes")
    assert b.read(2 << 20, 4096) == b"\2" * 4096
    assert set(_warm_up(b).values()) == {0}
