"""The loop behind ``blockpair status --watch`` on a terminal: looks, and draws."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from rich.console import Console
from rich.live import Live

from blockpair.cli.watch_view import Look, View
from blockpair.errors import BlockpairError
from blockpair.raid.inventory import Inventory
from blockpair.status.report import StatusReport


def follow(fetch: Callable[[], StatusReport], first: StatusReport, interval: float) -> StatusReport:
    """Draw what ``fetch`` says every ``interval`` seconds, from ``first`` on, until the program is
    interrupted or ended; the last report. A fetch that fails is shown and tried again.
    """
    arrays = _Arrays()
    now, before, trouble = arrays.with_report(first), None, None
    screen = Live(View(now), console=Console(), auto_refresh=False, screen=True)
    try:
        with _Waking() as waking:
            screen.start()
            due = now.at + interval
            while True:
                if waking.wait(due - time.monotonic()):
                    # The window may have another size.
                    screen.refresh()
                    continue
                try:
                    now, before, trouble = arrays.with_report(fetch()), now, None
                except BlockpairError as error:
                    trouble = error.message
                due = max(due + interval, time.monotonic())
                screen.update(View(now, before, trouble), refresh=True)
    except KeyboardInterrupt:
        return now.report
    finally:
        # Also where it was interrupted in the middle of its start.
        screen.stop()


class _Arrays:
    """The arrays of this node, for whoever may see them."""

    def __init__(self) -> None:
        self._inventory = Inventory() if os.geteuid() == 0 else None

    def with_report(self, report: StatusReport) -> Look:
        at = time.monotonic()
        if self._inventory is None:
            return Look(report, at)
        try:
            found = sorted(self._inventory.arrays().values(), key=lambda array: array.name)
        except BlockpairError as error:
            return Look(report, at, unseen=error.message)
        return Look(report, at, tuple(found))


class _Waking:
    """A pause that a signal ends at once: the window's new size; an end of the program, as an interrupt, so
    that the terminal is left as it was.
    """

    def __enter__(self) -> _Waking:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._resized = signal.signal(signal.SIGWINCH, _noticed)
        self._ended = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._ended)
        signal.signal(signal.SIGWINCH, self._resized)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> bool:
        """Whether a signal came first."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if ready:
            os.read(self._read, 4096)
        return bool(ready)


def _noticed(_number: int, _frame: FrameType | None) -> None:
    """The waking itself is all."""
