"""The score of a node, from 0 to 100. Pure.

Every part (CPU, memory, a disk, a link …) is measured on its own scale and becomes a score of its own: 100
up to what is good, 0 from what is bad on, straight in between. The node's score is the weighted mean of
the parts, but never more than the worst of them lets it be: a mean alone would hide one part that is
saturated behind others that idle, and that one is why clients wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

FULL = 100.0


@dataclass(frozen=True)
class Scale:
    """How a measure becomes a score. ``good`` and ``bad``: the values up to which it is 100, from which it
    is 0; ``weight``: in the mean; ``severity``: how much of the node's score this part alone may take,
    from 0 to 1.
    """

    good: float
    bad: float
    weight: float
    severity: float
    unit: str = ""

    def __post_init__(self) -> None:
        numbers = (self.good, self.bad, self.weight, self.severity)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a scale has finite numbers")
        if self.good == self.bad:
            raise ValueError("a scale needs room between good and bad")
        if self.weight <= 0 or not 0 < self.severity <= 1:
            raise ValueError("a weight is more than 0, a severity more than 0 and at most 1")

    def score(self, value: float) -> float:
        """From 0 to 100; a value that is no number is the worst."""
        if math.isnan(value):
            return 0.0
        share = (self.bad - value) / (self.bad - self.good)
        return FULL * min(1.0, max(0.0, share))


# The weights are those of the rule that this one descends from (0.3 CPU, 0.4 disk, 0.3 memory), with the
# others
# beside them. Each severity is such that the part alone, saturated, brings a node below 60.
DEFAULT_SCALES: dict[str, Scale] = {
    "cpu": Scale(10, 80, 0.3, 0.6, "% of the time somebody waited for a CPU"),
    "memory": Scale(1, 30, 0.3, 0.8, "% of the time everybody waited for memory"),
    "memory-available": Scale(10, 2, 0.1, 0.6, "% of memory available"),
    "disk-latency": Scale(20, 500, 0.4, 0.7, "ms a request"),
    "disk-busy": Scale(80, 100, 0.1, 0.5, "% of the time busy"),
    "disk-errors": Scale(0, 5, 0.4, 1.0, "errors of late"),
    "array": Scale(0, 2, 0.2, 0.5, "members missing"),
    "link": Scale(0, 1, 0.3, 0.6, "down"),
    "bond": Scale(0, 1, 0.2, 0.45, "share of members down"),
    "lag": Scale(64, 4096, 0.2, 0.5, "MiB the peer lacks"),
    "clock": Scale(0.1, 5, 0.05, 0.45, "s off"),
    "temperature": Scale(80, 100, 0.1, 0.6, "% of what is critical"),
}
"""By kind of part."""


@dataclass(frozen=True)
class Reading:
    """What a sensor measured: the ``kind`` of part, which one of them, and its value on that kind's scale."""

    kind: str
    value: float
    subject: str = ""
    note: str = ""
    """What a person would want to know beside the number."""

    @property
    def name(self) -> str:
        """``disk-latency sda``."""
        return f"{self.kind} {self.subject}" if self.subject else self.kind


@dataclass(frozen=True)
class Part:
    """A part with its score, and ``cap``: the most that the node's score may be because of it."""

    name: str
    value: float
    unit: str
    score: float
    weight: float
    cap: float
    note: str = ""


@dataclass(frozen=True)
class Health:
    """The score of a node, its parts with the worst first, and why it is not 100."""

    score: float
    parts: tuple[Part, ...]
    reasons: tuple[str, ...]


def health(readings: Iterable[Reading], scales: dict[str, Scale] | None = None) -> Health:
    """The score of the node that gave these readings; of a kind without a scale: left out. Without any: 100,
    and a reason that says so.
    """
    scales = DEFAULT_SCALES if scales is None else scales
    parts = [_part(reading, scales[reading.kind]) for reading in readings if reading.kind in scales]
    parts.sort(key=lambda part: (part.cap, part.score, part.name))
    if not parts:
        return Health(FULL, (), ("nothing could be measured",))
    weight = sum(part.weight for part in parts)
    mean = sum(part.weight * part.score for part in parts) / weight
    total = min(FULL, max(0.0, min(mean, parts[0].cap)))
    return Health(total, tuple(parts), tuple(_reason(part) for part in parts if part.score < FULL))


def _part(reading: Reading, scale: Scale) -> Part:
    score = scale.score(reading.value)
    cap = FULL - scale.severity * (FULL - score)
    return Part(reading.name, reading.value, scale.unit, score, scale.weight, cap, reading.note)


def _reason(part: Part) -> str:
    note = f" ({part.note})" if part.note else ""
    return f"{part.name}: {part.value:g} {part.unit}{note}"
