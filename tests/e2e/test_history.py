"""The history through the command line: after a crash, without a daemon, of no resource."""

from __future__ import annotations

import json
import shutil

import pytest

from blockpair.config.arbitration import PROFILES
from tests.e2e.cluster import Cluster
from tests.e2e.trio import Trio


def test_the_engine_keeps_its_history_file_and_the_command_reads_it(cluster: Cluster) -> None:
    cluster.synced()
    a = cluster.a
    file = a.dir / "state/history/r0.jsonl"
    assert file.exists()
    before = len(a.ok("history", "r0", "--json").json()["entries"])
    a.kill()
    # A crash of the whole node tears the last line; the entry before it, and the next one, are not hurt.
    entry = '{"time":"2026-01-01T00:00:00.000Z","node":"a","what":"test.entry","text":"kept","by":"root"}\n'
    with file.open("a") as stream:
        stream.write(entry + entry[:40])
    answer = a.ok("history", "r0", "--json").json()
    assert len(answer["entries"]) == before + 1 and answer["entries"][-1]["text"] == "kept"
    a.start()
    a.wait("primary,synced")
    assert file.read_bytes().endswith(b"\n")
    assert "test.entry: kept\n    by root" in a.ok("history", "r0").out
    a.refused(1, "history", "r9")
    # What a split brain would have come of.
    a.ok("disconnect", "r0")
    a.ok("connect", "r0")
    shown = a.ok("history", "r0").out
    for what in ("peer.disconnect [b]: a disconnects from b", "peer.connect [b]: a connects to b"):
        assert f"{what}\n    by root via blockpair {what[5:].split()[0]}\n" in shown
    assert "nonce=" not in shown and "nonce=" in a.ok("history", "r0", "--verbose").out


def test_decisions_are_kept_on_both_nodes_with_who_asked(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(0, b"x" * 4096)
    a.ok("demote", "r0")
    a.kill()
    b.ok("promote", "r0", "--force", "--yes")
    a.start()
    b.wait("synced")

    def kept(name: str) -> list[dict[str, object]]:
        node = a if name == "a" else b
        entries: list[dict[str, object]] = node.ok("history", "r0", "--limit", "500", "--json").json()[
            "entries"
        ]
        return entries

    on_a, on_b = kept("a"), kept("b")
    for entries in (on_a, on_b):
        names = [entry["what"] for entry in entries]
        assert {"handshake.verdict", "sync.started", "sync.finished"} <= set(names)
        verdict = next(entry for entry in entries if entry["what"] == "handshake.verdict")
        assert verdict["fields"].keys() >= {"rule", "direction", "own", "peer", "nonce"}  # type: ignore[attr-defined]
    promotion = next(entry for entry in on_a if entry["what"] == "role.primary")
    assert promotion["by"] == "root via blockpair promote"
    assert [entry["by"] for entry in on_a if entry["what"] == "role.secondary"] == [
        "root via blockpair demote"
    ]
    forced = next(entry for entry in on_b if entry["what"] == "role.forced")
    assert forced["by"] == "root via blockpair promote"
    # What the forced promotion decided was durable before the handshake that it changed.
    verdicts = [entry["fields"]["rule"] for entry in on_b if entry["what"] == "handshake.verdict"]  # type: ignore[index]
    assert verdicts[-1] == "self-ahead"


def test_a_state_disk_that_is_slow_costs_no_connection(trio: Trio, cluster: Cluster) -> None:
    """Each record takes the disk longer than a peer may be silent: once, no resync got to its first chunk."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace")
    slow_us = round(PROFILES["default"].patience * 1e6) + 250_000
    for node in cluster.nodes:
        path = node.dir / "state/history/r0.jsonl"
        delay = ("-P", str(path), "-e", "trace=fdatasync", "-e", f"inject=fdatasync:delay_enter={slow_us}")
        # The daemon stays this process's child.
        node.prefix = (strace, "-D", "-f", "--seccomp-bpf", "-qq", "-o", str(node.dir / "trace"), *delay)
    trio.synced()
    for node in cluster.nodes:
        records = [
            json.loads(line) for line in (node.dir / "state/history/r0.jsonl").read_text().splitlines()
        ]
        assert [one["what"] for one in records if one["what"] == "sync.cut"] == []
        assert "DELAYED" in (node.dir / "trace").read_text()
