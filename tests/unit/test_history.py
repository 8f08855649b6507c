"""The history as a reader finds it: torn lines, two files, limits, and how an entry reads."""

from __future__ import annotations

import json
from pathlib import Path

from blockpair.cli.history import entry_lines
from blockpair.daemon.asker import describe_asker
from blockpair.history import parse_history, read_history


def line(text: str) -> bytes:
    entry = {
        "time": "2026-11-24T10:00:00.000Z",
        "node": "a",
        "what": "role.promoted",
        "text": text,
        "by": None,
        "peer": None,
        "fields": {"forced": "true"},
    }
    return json.dumps(entry).encode() + b"\n"


def test_torn_lines_are_left_out_wherever_they_are() -> None:
    content = line("one") + line("two")[:30] + b"\n" + line("three") + b'{"time": "2026\xff'
    assert [entry.text for entry in parse_history(content)] == ["one", "three"]
    assert parse_history(b"") == []
    assert parse_history(b'[1]\n{"time": 3}\n\n') == []


def test_the_older_file_comes_first_and_the_limit_keeps_the_newest(tmp_path: Path) -> None:
    file = tmp_path / "r0.jsonl"
    assert read_history(file) == []
    file.with_name("r0.jsonl.1").write_bytes(line("old"))
    assert [entry.text for entry in read_history(file)] == ["old"]
    file.write_bytes(line("new") + line("newest"))
    assert [entry.text for entry in read_history(file)] == ["old", "new", "newest"]
    assert [entry.text for entry in read_history(file, 2)] == ["new", "newest"]
    assert [entry.text for entry in read_history(file, 5)] == ["old", "new", "newest"]


def test_an_entry_for_a_person_says_who_and_with_what() -> None:
    entry = {**json.loads(line("a is Primary")), "by": "root via blockpair promote", "peer": "b"}
    assert entry_lines(entry) == [
        "2026-11-24T10:00:00.000Z  role.promoted [b]: a is Primary",
        "    by root via blockpair promote",
        "    forced=true",
    ]


def test_what_was_said_in_a_handshake_is_shown_when_asked_for() -> None:
    fields = {"own": "Secondary/UpToDate current 0000", "rule": "same"}
    said = json.loads(line("b: both copies are the same (rule same)"))
    entry = {**said, "what": "handshake.verdict", "fields": fields}
    short = ["2026-11-24T10:00:00.000Z  handshake.verdict: b: both copies are the same (rule same)"]
    assert entry_lines(entry) == short
    assert entry_lines(entry, verbose=True) == [*short, "    own=Secondary/UpToDate current 0000, rule=same"]


def test_the_asker_is_named_even_without_an_account() -> None:
    assert describe_asker(0, "resource.promote") == "root via blockpair promote"
    assert describe_asker(4_000_000_000, "resource.sync") == "uid 4000000000 via blockpair sync"
