"""Following a resync: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from blockpair.cli.plain_lines import PlainLines
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.conditions import copies_synced
from blockpair.status.engine import Resync
from blockpair.status.report import ResourceReport
from blockpair.units import format_duration, format_size

# A sync that was just started begins with a new connection: that there is none yet alarms nobody.
_QUIET_SECONDS = 1.5
# What no waiting cures.
_HOPELESS = {"first-sync", "split-brain", "diskless", "peer-diskless", "disconnected", "down", "failed"}


def running(report: ResourceReport) -> Resync | None:
    """The resync that has most left to do."""
    if report.engine is None:
        return None
    resyncs = [peer.resync for peer in report.engine.peers if peer.resync is not None]
    return max(resyncs, key=lambda resync: resync.total_bytes - resync.done_bytes, default=None)


def plain(report: ResourceReport) -> str:
    """Where the resync stands, on one line."""
    resync = running(report)
    if resync is None:
        if report.engine is not None and copies_synced(report.engine):
            return f"{report.name}: in sync{_last(report)}"
        return f"{report.name}: waiting: " + (report.advice[0].text if report.advice else "no resync runs")
    percent = 100 * resync.done_bytes / resync.total_bytes if resync.total_bytes else 100.0
    left = "" if resync.eta_seconds is None else f", {format_duration(resync.eta_seconds)} left"
    return (
        f"{report.name}: {format_size(resync.done_bytes)} of {format_size(resync.total_bytes)} "
        f"({percent:.1f} %), {format_size(resync.rate_bytes_per_second)}/s{left}"
    )


def _last(report: ResourceReport) -> str:
    if report.engine is None:
        return ""
    for peer in report.engine.peers:
        last = peer.last_resync
        if last is not None and last.finished:
            return (
                f"; last resync: {format_size(last.total_bytes)} in {format_duration(last.elapsed_seconds)}, "
                f"{format_size(last.sent_bytes)} sent, {format_size(last.same_bytes)} were the same"
            )
    return ""


def hopeless(report: ResourceReport) -> BlockpairError | None:
    """The error to give up with, if the copies cannot get in sync by waiting."""
    for entry in report.advice:
        if entry.code in _HOPELESS or (entry.code.startswith("refused-") and entry.severity == "critical"):
            return BlockpairError(
                ErrorKind.FAILED, f"{report.name} will not get in sync: {entry.text}", entry.remedy
            )
    return None


def show(
    fetch: Callable[[], ResourceReport], limit: float | None, poll: float, clock: Callable[[], float]
) -> ResourceReport:
    """Show the progress until all copies are in sync. Raises `BlockpairError` if they will not be, or not in
    time.
    """
    draw = _Bar() if sys.stderr.isatty() else PlainLines(clock, _until_synced)
    began = clock()
    deadline = None if limit is None else began + limit
    with draw:
        while True:
            report = fetch()
            if running(report) is not None or clock() >= began + _QUIET_SECONDS:
                draw.update(report)
            if report.engine is not None and report.state == "running" and copies_synced(report.engine):
                break
            error = hopeless(report)
            if error is not None:
                raise error
            if deadline is not None and clock() >= deadline:
                raise BlockpairError(
                    ErrorKind.TIMEOUT,
                    f"not in sync after {limit:g} s: {plain(report)}",
                    f"what is in its way, and what to do: blockpair status {report.name}; "
                    f"to follow it further: blockpair sync {report.name} --wait",
                )
            try:
                time.sleep(poll)
            except KeyboardInterrupt:
                print(f"{report.name}: no longer followed; nothing was stopped", file=sys.stderr)
                raise
    print(plain(report), file=sys.stderr)
    return report


def _until_synced(report: ResourceReport) -> str | None:
    line = plain(report)
    return None if ": in sync" in line else line


class _Bar:
    """A bar while a resync runs; while none does, words alone: they need the bar's room."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} %  {task.fields[detail]}"),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("resync", total=None, detail="")
        self._live = Live("", console=Console(stderr=True), transient=True)

    def __enter__(self) -> _Bar:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, report: ResourceReport) -> None:
        from rich.text import Text

        resync = running(report)
        if resync is None:
            self._live.update(Text(plain(report)))
            return
        left = "" if resync.eta_seconds is None else f"  {format_duration(resync.eta_seconds)} left"
        detail = (
            f"{format_size(resync.done_bytes)} of {format_size(resync.total_bytes)}  "
            f"{format_size(resync.rate_bytes_per_second)}/s{left}"
        )
        self._progress.update(
            self._task,
            description=report.name,
            total=resync.total_bytes,
            completed=resync.done_bytes,
            detail=detail,
        )
        self._live.update(self._progress.get_renderable())
