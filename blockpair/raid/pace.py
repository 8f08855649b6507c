"""How fast an array may be synced beside the application that uses it. Pure.

md itself holds a rebuild back only by fixed speeds (``sync_speed_min``, ``sync_speed_max``). Here the upper
one follows what the application's I/O takes: above the bound the speed is halved, well below it grows by a
quarter, and while nobody waits it doubles. It never falls below md's own minimum, nor a twentieth of what was
allowed before, so that a rebuild ends in days and not in months.
"""

from __future__ import annotations

from dataclasses import dataclass

# Without a bound in the configuration: so many times what an I/O took while nothing was synced.
FACTOR = 3.0
LEAST_MS, MOST_MS = 1.0, 50.0
# A disk that is slow by itself is no reason: so much more than usual is allowed in any case.
LEAST_FACTOR = 1.5
UNKNOWN_MS = 20.0
# How much a window without a sync counts for what is usual.
_WEIGHT = 0.2
# Between this part of the bound and the bound the speed stays.
_CALM = 0.7
_STEP_KIB = 1024
_SHARE = 20


@dataclass(frozen=True)
class Window:
    """What happened since the last look. ``latency_ms``: of the application's I/Os, None: there were none;
    ``sync_kib``: KiB a second that were synced of each member.
    """

    latency_ms: float | None
    sync_kib: int


@dataclass(frozen=True)
class Limits:
    """KiB a second. ``md_least``: md's own minimum; ``most``: what was allowed before."""

    md_least: int
    most: int

    @property
    def least(self) -> int:
        """Slower than this it is not made."""
        return min(self.most, max(self.md_least, self.most // _SHARE))


def usual(before: float | None, latency_ms: float | None) -> float | None:
    """What an I/O usually takes while nothing is synced, after one more such window."""
    if latency_ms is None:
        return before
    return latency_ms if before is None else before + _WEIGHT * (latency_ms - before)


def bound(usual_ms: float | None, asked_ms: float | None) -> float:
    """What the application's I/O may take: as asked, or by what is usual."""
    if asked_ms is not None:
        return asked_ms
    if usual_ms is None:
        return UNKNOWN_MS
    return max(LEAST_MS, LEAST_FACTOR * usual_ms, min(MOST_MS, FACTOR * usual_ms))


def step(limit: int, window: Window, bound_ms: float, limits: Limits) -> int:
    """The next limit, from ``limits.least`` to ``limits.most``."""
    if window.latency_ms is None:
        wanted = limit * 2 + _STEP_KIB
    elif window.latency_ms > bound_ms:
        # A limit far above what is synced would have to be halved often before it bites.
        wanted = min(limit, max(window.sync_kib, limits.least)) // 2
    elif window.latency_ms < _CALM * bound_ms:
        wanted = limit + max(limit // 4, _STEP_KIB)
    else:
        wanted = limit
    return max(limits.least, min(limits.most, wanted))
