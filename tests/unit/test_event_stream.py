"""The stream while a daemon runs: nothing waits for its disk, nothing is lost without a word."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pytest
import structlog

from blockpair.config.node import LogLevel
from blockpair.events import stream as module
from blockpair.events.damper import MOST
from blockpair.events.event import Event
from blockpair.events.files import Reader, Writer, segments
from blockpair.events.stream import MOST_WAITING, Stream
from blockpair.service import logs


def record(text: str, what: str = "peer.lost", **more: str) -> dict[str, str]:
    return {"event": what, "level": "info", "text": text, **more}


def kept(stream: Stream) -> list[Event]:
    return Reader(stream.folder).read(1 << 20)


def settled(stream: Stream, count: int) -> list[Event]:
    """Once so many events are stable."""
    assert stream.wait(count - 1, 20.0, lambda: False)
    return kept(stream)


def test_what_is_taken_is_on_the_disk_and_goes_on_with_the_next_daemon(tmp_path: Path) -> None:
    first = Stream(tmp_path / "events", "a")
    first.take(record("before it was started"))
    first.start()
    first.take(record("and after"))
    first.close()
    again = Stream(tmp_path / "events", "a")
    again.start()
    assert again.stable == 2
    again.take(record("again"))
    assert [one.text for one in settled(again, 3)] == ["before it was started", "and after", "again"]
    again.close()


def test_a_torn_end_is_told_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append([Event(0, "2026-11-24T10:00:00.000Z", "a", "info", "peer.lost", "whole")])
    writer.close()
    with segments(tmp_path)[0][1].open("ab") as file:
        file.write(b'{"seq":2,"ti')
    for _ in range(2):
        stream = Stream(tmp_path, "a")
        stream.start()
        stream.close()
    assert [one.what for one in kept(stream)] == ["peer.lost", "events.torn"]
    assert "12 bytes" in kept(stream)[1].text


def test_a_flood_is_bounded_and_its_rest_told_of(tmp_path: Path) -> None:
    now = [0.0]
    stream = Stream(tmp_path, "a", clock=lambda: now[0])
    for number in range(MOST + 30):
        stream.take(record(f"n{number}", resource="r0"))
    now[0] = 61.0
    stream.start()
    stream.close()
    events = kept(stream)
    assert len(events) == MOST + 1
    assert events[-1].what == "events.repeated" and events[-1].resource == "r0"
    assert events[-1].text.startswith("30 more events peer.lost") and events[-1].text.endswith("n49")


def test_a_disk_that_hangs_holds_up_nobody_and_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, begun, go_on = Flag(), Flag(), Flag()
    real = Writer.append

    def hanging(self: Writer, events: list[Event]) -> list[Event]:
        begun.set()
        if not hung.is_set():
            hung.set()
            assert go_on.wait(30)
        return real(self, events)

    monkeypatch.setattr(Writer, "append", hanging)
    stream = Stream(tmp_path, "a")
    stream.start()
    stream.take(record("first", "kind.first"))
    assert begun.wait(30)
    for number in range(MOST_WAITING + 500):
        stream.take(record("x", f"kind.n{number}"))
    go_on.set()
    events = settled(stream, MOST_WAITING + 1)
    stream.close()
    assert len(events) == MOST_WAITING + 1
    assert events[-1].what == "events.lost" and events[-1].text == "501 events were not recorded"


def test_a_full_disk_is_logged_once_and_what_waited_is_recorded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = [True]
    real = Writer.append

    def append(self: Writer, events: list[Event]) -> list[Event]:
        if full[0]:
            raise OSError(28, "No space left on device")
        return real(self, events)

    monkeypatch.setattr(Writer, "append", append)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.02)
    before = structlog.get_config()
    try:
        logs.set_up("json", "info")
        stream = Stream(tmp_path, "a")
        # What a thread writes while capsys reads is lost: it is read once, when the thread has ended.
        refused = threading.Event()
        with logs.heard(lambda entry: refused.set() if entry["event"] == "events.unwritten" else None):
            stream.start()
            stream.take(record("kept"))
            assert refused.wait(20)
        assert not stream.wait(0, 0.2, lambda: False)
        full[0] = False
        assert [one.text for one in settled(stream, 1)] == ["kept"]
        stream.close()
        told = capsys.readouterr().err
    finally:
        structlog.configure(**before)
    assert told.count("events.unwritten") == 1 and "No space left" in told


def test_listeners_and_those_that_wait_hear_of_it(tmp_path: Path) -> None:
    stream = Stream(tmp_path, "a")
    stream.start()
    heard = Flag()
    end = stream.on_stable(heard.set)
    ended = Flag()
    waiting = Thread(target=lambda: stream.wait(5, None, ended.is_set))
    waiting.start()
    stream.take(record("x"))
    assert heard.wait(20) and stream.wait(0, 20, lambda: False)
    end()
    ended.set()
    stream.wake()
    waiting.join(20)
    assert not waiting.is_alive()
    stream.close()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_stream_hears_what_the_log_leaves_out(
    level: LogLevel, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []

    def hear(told: logs.Record) -> None:
        heard.append(told["event"])

    before = structlog.get_config()
    try:
        logs.set_up("json", level)
        log: Callable[..., None]
        with logs.heard(hear):
            for name in ("debug", "info", "warning", "error"):
                log = getattr(structlog.get_logger(), name)
                log(f"kind.{name}", secret="abc")
        structlog.get_logger().error("kind.after")
    finally:
        structlog.configure(**before)
    told = capsys.readouterr().err
    order = ["debug", "info", "warning", "error"]
    assert [name for name in order if f"kind.{name}" in told] == order[order.index(level) :]
    assert [name for name in heard if name != "kind.debug"] == ["kind.info", "kind.warning", "kind.error"]
    assert "kind.after" in told and "abc" not in told
