"""`Family`: a metric with its name, meaning and labels; `Sample`: one of its values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal


@dataclass(frozen=True)
class Sample:
    """A value of ``family``; ``labels`` in the order that the family has them. Of a histogram ``part`` says
    which value: "_bucket", of those up to ``bound``, "_sum" or "_count".
    """

    family: Family
    labels: tuple[str, ...]
    value: float
    part: str = ""
    bound: float | None = None


@dataclass(frozen=True)
class Family:
    """A metric. ``name`` as Prometheus has it, a counter's with its ``_total``; ``meaning`` in a line."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: the name of a counter, and of nothing else, ends with _total")

    def sample(self, value: float, *labels: str) -> Sample:
        """A value of it, with one word for each of its labels."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {len(labels)}")
        return Sample(self, labels, value)

    def series(self) -> tuple[str, ...]:
        """The names under which its values are found."""
        return tuple(f"{self.name}{part}" for part in _PARTS) if self.kind == "histogram" else (self.name,)

    def histogram(
        self, bounds: Iterable[float], buckets: Iterable[int], total: float, *labels: str
    ) -> Iterator[Sample]:
        """``buckets``: how many in each, one more than ``bounds``; ``total``: of all that was counted."""
        counts = list(accumulate(buckets))
        for bound, count in zip((*bounds, float("inf")), counts, strict=True):
            yield Sample(self, labels, count, "_bucket", bound)
        yield Sample(self, labels, total, "_sum")
        yield Sample(self, labels, counts[-1], "_count")

    def known(self, value: float | None, *labels: str) -> Iterator[Sample]:
        """A value of it, or nothing where it is not known."""
        if value is not None:
            yield self.sample(value, *labels)

    def states(self, present: str, states: Iterable[str], *labels: str) -> Iterator[Sample]:
        """One value a state, whose word is the last label: 1 for the ``present`` one, 0 for the others."""
        for state in dict.fromkeys((*states, present)):
            yield self.sample(state == present, *labels, state)


_PARTS = ("_bucket", "_sum", "_count")


def gauge(name: str, meaning: str, *labels: str) -> Family:
    """A family of values that go up and down."""
    return Family(name, "gauge", meaning, labels)


def counter(name: str, meaning: str, *labels: str) -> Family:
    """A family of values that only grow, until what counts begins anew."""
    return Family(name, "counter", meaning, labels)


def histogram(name: str, meaning: str, *labels: str) -> Family:
    """A family of distributions, each a count a bucket, since what counts began."""
    return Family(name, "histogram", meaning, labels)
