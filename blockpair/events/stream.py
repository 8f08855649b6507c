"""The stream of a node while its daemon runs: what the log tells is taken in at once and written by a thread,
so that a disk that hangs holds up nobody.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import structlog

from blockpair.events.damper import Damper
from blockpair.events.event import Event, event_of
from blockpair.events.files import Writer

# What waits for the disk at most; beyond it events are counted only.
MOST_WAITING = 1000
_RETRY_SECONDS = 5.0
_END_SECONDS = 2.0


class Stream:
    """Records events durably, in order; begins to with `start`. Its methods may be called by any thread."""

    def __init__(self, folder: Path, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.node = node
        self._clock = clock
        self._damper = Damper()
        # With this held: all that follows.
        self._changed = Condition()
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._problem = ""
        self._closing = False
        self._stable = 0
        self._listeners: list[Callable[[], object]] = []
        self._writer: Writer | None = None
        self._thread = Thread(target=self._run, name="bp-events", daemon=True)
        self._log = structlog.get_logger().bind(part="events")

    @property
    def stable(self) -> int:
        """The number of the last event that no crash takes away."""
        return self._stable

    def start(self) -> None:
        """Open the files and begin to write. Files that cannot be written now may be later: that is logged,
        and tried again.
        """
        self._open()
        self._thread.start()

    def take(self, record: Mapping[str, Any]) -> None:
        """Record what a log record tells of, if it is an event. Never fails, and waits for no disk."""
        event = event_of(record, self.node)
        if event is None:
            return
        with self._changed:
            if not self._damper.passes(event, self._clock()):
                return
            if len(self._waiting) >= MOST_WAITING:
                self._lost += 1
                return
            self._waiting.append(event)
            self._changed.notify_all()

    def wait(self, after: int, seconds: float | None, ended: Callable[[], bool]) -> bool:
        """Wait until there is a stable event after the number ``after``, ``seconds`` have passed, or `wake`
        was called and ``ended`` is so; whether there is such an event.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stable > after or ended(), seconds)
            return self._stable > after

    def wake(self) -> None:
        """Have those that wait look whether they have ended."""
        with self._changed:
            self._changed.notify_all()

    def on_stable(self, call: Callable[[], object]) -> Callable[[], None]:
        """Have ``call`` called by the writing thread whenever there are new stable events; gives what ends
        that.
        """
        with self._changed:
            self._listeners.append(call)

        def end() -> None:
            with self._changed:
                self._listeners.remove(call)

        return end

    def close(self) -> None:
        """Write what waits, for a moment at most, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                due = self._damper.due()
                left = None if due is None else max(0.0, due - self._clock())
                self._changed.wait_for(lambda: bool(self._waiting) or self._closing, left)
                closing = self._closing
                batch = self._batch()
            written = not batch or self._write(batch)
            if closing:
                break
            if not written:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS)
        if self._writer is not None:
            self._writer.close()

    def _batch(self) -> list[Event]:
        """All that is to be written now."""
        for (what, resource, peer), count, last in self._damper.over(self._clock()):
            text = (
                f"{count} more events {what} came within a minute and were counted only; the last one: {last}"
            )
            self._say("warning", "events.repeated", text, resource=resource, peer=peer)
        if self._lost:
            self._say("error", "events.lost", f"{self._lost} events were not recorded", why=self._problem)
            self._lost = 0
        return list(self._waiting)

    def _say(self, level: str, what: str, text: str, **more: object) -> None:
        event = event_of({"event": what, "level": level, "text": text, **more}, self.node)
        assert event is not None
        self._waiting.append(event)

    def _write(self, batch: list[Event]) -> bool:
        """Whether it is recorded; if not, it goes on waiting."""
        if self._writer is None and not self._open():
            return False
        assert self._writer is not None
        try:
            self._writer.append(batch)
        except OSError as error:
            self._fail(error)
            return False
        with self._changed:
            for _ in batch:
                self._waiting.popleft()
            self._problem = ""
            self._stable = self._writer.last
            self._changed.notify_all()
            listeners = list(self._listeners)
        for call in listeners:
            call()
        return True

    def _open(self) -> bool:
        try:
            self._writer = Writer(self.folder)
        except OSError as error:
            self._fail(error)
            return False
        with self._changed:
            self._stable = self._writer.last
            if self._writer.torn:
                text = f"a crash has torn the last event: {self._writer.torn} bytes were dropped"
                self._say("warning", "events.torn", text)
        return True

    def _fail(self, error: OSError) -> None:
        problem = f"{self.folder} cannot be written: {error.strerror}"
        if self._problem != problem:
            self._problem = problem
            self._log.error("events.unwritten", text=problem, remedy="make room for the state")
