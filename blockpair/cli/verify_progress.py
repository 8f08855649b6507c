"""Following a comparison of both copies: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from blockpair.cli.plain_lines import PlainLines
from blockpair.cli.verify_text import state
from blockpair.units import format_duration, format_size
from blockpair.verify.messages import VerifyReport


def follow(
    fetch: Callable[[], VerifyReport], limit: float | None, poll: float, clock: Callable[[], float]
) -> tuple[VerifyReport, bool]:
    """Show the progress until it has ended; the last report, and whether that came within ``limit``
    seconds.
    """
    deadline = None if limit is None else clock() + limit
    show = _Bar(clock) if sys.stderr.isatty() else PlainLines(clock, _line)
    with show:
        while True:
            report = fetch()
            if not report.running:
                return report, True
            show.update(report)
            if deadline is not None and clock() >= deadline:
                return report, False
            try:
                time.sleep(poll)
            except KeyboardInterrupt:
                print(f"{report.name}: no longer followed; it goes on", file=sys.stderr)
                raise


def _line(report: VerifyReport) -> str:
    return f"{report.name}: {state(report)}"


class _Bar:
    """A bar, with the rate since it was first drawn."""

    def __init__(self, clock: Callable[[], float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} %  {task.fields[detail]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("verify", total=None, detail="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, report: VerifyReport) -> None:
        now = self._clock()
        since, before = self._first or (now, report.done_bytes)
        self._first = (since, before)
        detail = f"{format_size(report.done_bytes)} of {format_size(report.total_bytes)}"
        if report.reason:
            detail += f"  waits: {report.reason}"
        elif now > since and report.done_bytes > before:
            rate = (report.done_bytes - before) / (now - since)
            left = format_duration((report.total_bytes - report.done_bytes) / rate)
            detail += f"  {format_size(rate)}/s  {left} left"
        self._progress.update(
            self._task,
            description=report.name,
            total=report.total_bytes,
            completed=report.done_bytes,
            detail=detail,
        )
