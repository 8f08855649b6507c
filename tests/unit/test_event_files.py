"""The stream on the disk: cut at every byte, rotated, read while it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockpair.events import query
from blockpair.events.event import Event, Filter
from blockpair.events.files import Reader, Writer, segments


def event(text: str, *, what: str = "peer.lost", time: str = "2026-11-24T10:00:00.000Z") -> Event:
    return Event(0, time, "a", "info", what, text)


def everything(folder: Path) -> list[Event]:
    return Reader(folder).read(1 << 20)


def test_events_are_numbered_from_one_and_go_on_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    writer = Writer(folder)
    assert [one.seq for one in writer.append([event("x"), event("y")])] == [1, 2]
    writer.close()
    again = Writer(folder)
    assert (again.last, again.torn) == (2, 0)
    again.append([event("z")])
    assert [(one.seq, one.text) for one in everything(folder)] == [(1, "x"), (2, "y"), (3, "z")]
    assert (folder.stat().st_mode & 0o777, segments(folder)[0][1].stat().st_mode & 0o777) == (0o750, 0o640)


def test_a_stream_that_is_cut_at_any_byte_has_the_whole_events_before_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    texts = ["one", 'two "\n\\ ü', "three"]
    for text in texts:
        writer.append([event(text)])
    writer.close()
    [(_, file)] = segments(tmp_path)
    content = file.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == 0x0A]
    for length in range(len(content) + 1):
        file.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)
        # Who reads without a daemon is not disturbed by what is torn.
        assert [one.text for one in everything(tmp_path)] == texts[:whole]
        again = Writer(tmp_path)
        assert again.torn == length - ([0, *ends][whole])
        again.append([event("after")])
        again.close()
        assert [one.text for one in everything(tmp_path)] == [*texts[:whole], "after"]
        assert [one.seq for one in everything(tmp_path)] == list(range(1, whole + 2))
        assert Writer(tmp_path).torn == 0


def test_garbage_after_a_loss_of_power_is_cut_off(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append([event("x")])
    writer.close()
    [(_, file)] = segments(tmp_path)
    with file.open("ab") as stream:
        stream.write(b"\0" * 4096 + b"\n\xff\xfe\n")
    again = Writer(tmp_path)
    assert (again.last, again.torn) == (1, 4100)


def test_old_files_go_and_no_number_is_given_twice(tmp_path: Path) -> None:
    writer = Writer(tmp_path, file_bytes=1000, files=3)
    for number in range(200):
        writer.append([event(f"n{number}")])
        if number % 37 == 0:
            writer.close()
            writer = Writer(tmp_path, file_bytes=1000, files=3)
    found = segments(tmp_path)
    assert len(found) == 3 and all(file.stat().st_size < 1400 for _, file in found)
    kept = everything(tmp_path)
    assert [one.seq for one in kept] == list(range(kept[0].seq, 201))
    assert all(one.text == f"n{one.seq - 1}" for one in kept)
    assert found[0][0] == kept[0].seq


def test_a_crash_right_after_a_new_file_was_begun_loses_no_number(tmp_path: Path) -> None:
    writer = Writer(tmp_path, file_bytes=1)
    writer.append([event("x")])
    writer.append([event("y")])
    writer.close()
    segments(tmp_path)[-1][1].write_bytes(b"")
    again = Writer(tmp_path)
    assert again.last == 1
    again.append([event("z")])
    assert [(one.seq, one.text) for one in everything(tmp_path)] == [(1, "x"), (2, "z")]


def test_a_full_disk_leaves_what_was_there_and_is_over_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    writer.append([event("x")])
    real = os.pwrite

    def part(descriptor: int, data: bytes, offset: int) -> int:
        real(descriptor, data[:10], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", part)
    with pytest.raises(OSError, match="No space left"):
        writer.append([event("y")])
    monkeypatch.setattr(os, "pwrite", real)
    assert [one.seq for one in writer.append([event("z")])] == [2]
    assert [one.text for one in everything(tmp_path)] == ["x", "z"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), max_size=40), st.integers(200, 2000))
def test_a_reader_beside_a_writer_has_every_event_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, int]], file_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("events")
    writer = Writer(folder, file_bytes=file_bytes, files=1000)
    reader = Reader(folder)
    had: list[int] = []
    for write, read in turns:
        writer.append([event("x" * write) for _ in range(write)])
        had += [one.seq for one in reader.read(read)]
    had += [one.seq for one in reader.read(1 << 20)]
    assert had == list(range(1, writer.last + 1))


def test_a_reader_that_is_too_slow_goes_on_with_the_oldest_there_is(tmp_path: Path) -> None:
    writer = Writer(tmp_path, file_bytes=500, files=2)
    reader = Reader(tmp_path)
    writer.append([event("first")])
    assert [one.seq for one in reader.read(10)] == [1]
    for _ in range(50):
        writer.append([event("x")])
    kept = [one.seq for one in everything(tmp_path)]
    assert [one.seq for one in reader.read(100)] == kept and kept[0] > 2


def test_nothing_is_read_beyond_what_is_stable(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append([event("x"), event("y"), event("z")])
    reader = Reader(tmp_path)
    assert [one.seq for one in reader.read(10, upto=2)] == [1, 2]
    assert reader.read(10, upto=2) == []
    assert [one.seq for one in reader.read(10, upto=3)] == [3]


def test_who_may_not_look_is_told(tmp_path: Path) -> None:
    """Not that there is nothing."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        query.newest(tmp_path / "file", Filter(), None, 5)


def test_what_is_asked_of_it(tmp_path: Path) -> None:
    assert query.newest(tmp_path / "none", Filter(), None, 5) == query.Answer([], 0)
    writer = Writer(tmp_path)
    writer.append(
        [
            event(
                f"n{n}",
                what="disk.error" if n % 10 == 0 else "peer.lost",
                time=f"2026-11-24T10:00:{n:02}.000Z",
            )
            for n in range(60)
        ]
    )
    answer = query.newest(tmp_path, Filter(kinds=("disk.*",)), "2026-11-24T10:00:15.000Z", 3)
    assert [one.text for one in answer.events] == ["n30", "n40", "n50"] and answer.last == 60
    first = query.following(tmp_path, Filter(kinds=("disk.*",)), 11, 2)
    assert [one.text for one in first.events] == ["n20", "n30"]
    rest = query.following(tmp_path, Filter(kinds=("disk.*",)), first.last, 9)
    assert [one.text for one in rest.events] == ["n40", "n50"] and rest.last == 60
