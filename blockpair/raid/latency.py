"""How slow a member is, compared with the others that carry the same load. Pure.

Compared with its neighbours and not with its own past: load changes for all of them at once, a failing disk
alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

# A window with fewer I/Os says little.
_FEWEST_IOS = 16
WINDOWS = 30
_FEWEST_WINDOWS = 10
# Neighbours quicker than this are compared as if they took this long: below, one queue more is a factor.
_FLOOR_MS = 0.5
# The part of the windows in which it was at least that slow: once is chance.
_SHARE = 0.75


@dataclass(frozen=True)
class Ticks:
    """The counters of a block device since boot: I/Os that ended, and the milliseconds they took together;
    ``waiting``: those under way.
    """

    ios: int
    milliseconds: int
    waiting: int = 0


def parse_stat(text: str) -> Ticks | None:
    """A ``/sys/block/DEVICE/stat``: reads and their time are the fields 1 and 4, writes 5 and 8; 9: I/Os
    under way.
    """
    fields = text.split()
    if len(fields) < 9 or not all(field.isdigit() for field in fields[:9]):
        return None
    return Ticks(int(fields[0]) + int(fields[4]), int(fields[3]) + int(fields[7]), int(fields[8]))


def between(before: Ticks, after: Ticks, fewest: int = _FEWEST_IOS) -> float | None:
    """The mean milliseconds of an I/O between two looks; None where there were too few."""
    ios = after.ios - before.ios
    if ios < fewest or after.milliseconds < before.milliseconds:
        return None
    return (after.milliseconds - before.milliseconds) / ios


def waited(before: Ticks, after: Ticks, seconds: float) -> float | None:
    """The milliseconds that an application waited for an I/O in a window of ``seconds``: as long as the
    window where some are under way and none ended; None where there were none.
    """
    if after.ios == before.ios and before.waiting and after.waiting:
        return seconds * 1000
    return between(before, after, fewest=1)


class Windows:
    """The latencies of some devices in the last windows of time."""

    def __init__(self) -> None:
        self._last: dict[str, Ticks] = {}
        self._windows: deque[dict[str, float]] = deque(maxlen=WINDOWS)

    def add(self, now: Mapping[str, Ticks]) -> None:
        """End a window with what the counters are now."""
        self._windows.append(
            {
                device: latency
                for device, ticks in now.items()
                if device in self._last and (latency := between(self._last[device], ticks)) is not None
            }
        )
        self._last = dict(now)

    def slowness(self, devices: Iterable[str]) -> dict[str, float]:
        """`slowness` of the members of one array."""
        return slowness(list(self._windows), list(devices))


def slowness(windows: Iterable[Mapping[str, float]], devices: Iterable[str]) -> dict[str, float]:
    """By which factor each device was at least as slow as the median of the others, in three quarters of the
    windows in which it and two others, or its only partner, worked. Devices with too few windows are left
    out.
    """
    everybody = sorted(set(devices))
    wanted = min(2, len(everybody) - 1)
    found = {}
    kept = list(windows)
    for device in everybody:
        factors = []
        for window in kept:
            others = [window[other] for other in everybody if other != device and other in window]
            if device in window and wanted > 0 and len(others) >= wanted:
                factors.append(window[device] / max(_FLOOR_MS, median(others)))
        if len(factors) >= _FEWEST_WINDOWS:
            factors.sort(reverse=True)
            found[device] = factors[int(len(factors) * _SHARE) - 1]
    return found
