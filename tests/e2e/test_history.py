"""The history through the command line: after a crash, without a daemon, of no resource."""

from __future__ import annotations

from tests.e2e.cluster import Cluster


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
