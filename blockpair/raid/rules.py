"""By what rules arrays are cared for. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blockpair.raid.health import REPLACE_AT


@dataclass(frozen=True)
class Rules:
    """``heal``: whether anything is done, or only told; ``replace_at``: the health at or below which a member
    is copied onto a spare, 0: never; ``latency_ms``: what an application's I/O may take while an array is
    synced, None: judged by what it took before; ``scrub_seconds``: from one scrub of an array to the next,
    None: no scrubs; ``scrub_hours``: the hours of the day, the second excluded, in which one may begin;
    ``adopt``: by array, patterns of places (names in /dev/disk/by-path, or paths) where a blank disk that is
    plugged in becomes its spare.
    """

    heal: bool = True
    replace_at: int = REPLACE_AT
    latency_ms: float | None = None
    scrub_seconds: float | None = None
    scrub_hours: tuple[int, int] = (0, 24)
    adopt: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
