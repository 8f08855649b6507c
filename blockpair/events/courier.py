"""Brings the events of the stream to one target: in order, at least once, also after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Protocol

from blockpair.config.files import write_atomically
from blockpair.events.event import Event, Severity
from blockpair.events.files import Reader
from blockpair.events.stream import Stream
from blockpair.events.targets import GIVE_UP_SECONDS, Target, attempt, pause

_BATCH = 100
# How soon it is noted that events have passed which are not for the target.
_NOTE_SECONDS = 60.0


class Tell(Protocol):
    """Logs, and by that records, an event."""

    def __call__(self, severity: Severity, what: str, text: str, /, **fields: object) -> None: ...


class Courier:
    """Delivers to ``target`` from where ``cursor``, a file, says that it stopped; without one, from now on.
    Where it is behind, the events wait on the disk, as long as the stream keeps them.
    """

    def __init__(
        self,
        target: Target,
        stream: Stream,
        cursor: Path,
        tell: Tell,
        *,
        now: Callable[[], float] = time.time,
        pause: Callable[[int], float] = pause,
    ) -> None:
        self.target = target
        self._stream = stream
        self._cursor = cursor
        self._tell = tell
        self._now = now
        self._pause = pause
        self._ending = Flag()
        self._failing = False
        self._noted = 0
        self._noted_at = float("-inf")
        self._thread = Thread(target=self._run, name="bp-notify", daemon=True)

    def start(self) -> None:
        """Begin; after the stream was started."""
        self._thread.start()

    def stop(self) -> None:
        """Have it end; what it is at will be delivered, or delivered again, by the next daemon."""
        self._ending.set()
        self._stream.wake()

    def join(self, seconds: float) -> None:
        """Wait for its end, so long at most: a server that answers slowly is not waited for."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        reader = Reader(self._stream.folder, self._begin())
        while not self._ending.is_set():
            before, stable = reader.after, self._stream.stable
            try:
                events = reader.read(_BATCH, stable)
            except OSError as error:
                self._failed(f"the stream cannot be read: {error.strerror}")
                self._ending.wait(self._pause(1))
                continue
            for event in events:
                if event.seq > before + 1:
                    self._skipped(event.seq - before - 1)
                before = event.seq
                if self._is_for_it(event) and not self._deliver(event):
                    return
            if not events and stable > before:
                # The files were damaged or taken away.
                self._skipped(stable - before)
                reader = Reader(self._stream.folder, stable)
            elif not events:
                left = self._noted_at + _NOTE_SECONDS - time.monotonic()
                if left <= 0:
                    self._note(reader.after)
                unnoted = left if reader.after > self._noted else None
                self._stream.wait(reader.after, unnoted, self._ending.is_set)
        self._note(reader.after)

    def _is_for_it(self, event: Event) -> bool:
        # That it fails would only be more for what fails.
        own = event.what.startswith("notify.") and event.fields.get("target") == self.target.name
        return not own and self.target.wants(event)

    def _deliver(self, event: Event) -> bool:
        """Deliver it or give it up; false where the end came first."""
        failures = 0
        while (failure := attempt(self.target, event, self._ending.is_set)) is not None:
            if self._ending.is_set():
                return False
            failures += 1
            self._failed(failure.why)
            if not failure.again or self._age(event) > GIVE_UP_SECONDS:
                self._give_up(event, failure.why)
                break
            if self._ending.wait(self._pause(failures)):
                return False
        else:
            self._succeeded()
        self._note(event.seq)
        return True

    def _age(self, event: Event) -> float:
        return self._now() - datetime.fromisoformat(event.time).astimezone(UTC).timestamp()

    def _failed(self, why: str) -> None:
        """Once, until it works again."""
        if not self._failing:
            self._failing = True
            name = self.target.name
            self._tell("warning", "notify.failed", f"{name} does not take events", target=name, why=why)

    def _succeeded(self) -> None:
        if self._failing:
            self._failing = False
            name = self.target.name
            self._tell("info", "notify.works", f"{name} takes events again", target=name)

    def _give_up(self, event: Event, why: str) -> None:
        name = self.target.name
        self._tell(
            "warning",
            "notify.given-up",
            f"{name} was not given event {event.seq}, {event.what}",
            target=name,
            why=why,
        )

    def _skipped(self, count: int) -> None:
        name = self.target.name
        text = f"{name} was not given {count} events: they were gone before it took them"
        self._tell("warning", "notify.skipped", text, target=name)

    def _begin(self) -> int:
        """The number of the event that it had last; without a note, and after a stream was begun anew, of the
        newest one there is.
        """
        stable = self._stream.stable
        try:
            noted = json.loads(self._cursor.read_text())["delivered"]
        except (OSError, ValueError, KeyError, TypeError):
            noted = None
        self._noted = noted if isinstance(noted, int) and 0 <= noted <= stable else stable
        if self._noted != noted:
            self._write(self._noted)
        return self._noted

    def _note(self, seq: int) -> None:
        if seq > self._noted:
            self._write(seq)

    def _write(self, seq: int) -> None:
        self._noted_at = time.monotonic()
        try:
            write_atomically(self._cursor, json.dumps({"delivered": seq}) + "\n", 0o640)
        except OSError as error:
            self._failed(f"what was delivered cannot be noted: {self._cursor}: {error.strerror}")
            return
        self._noted = seq
