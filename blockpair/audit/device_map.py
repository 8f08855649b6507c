"""A device as a map: its regions, a few a cell, shaded by how long ago each was proved identical. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blockpair.verify.messages import VerifyReport

_DAY = 86400.0


@dataclass(frozen=True)
class Shade:
    """``code``: a word for styles; ``title``: for a person; ``within``: seconds, of an age."""

    code: str
    title: str
    within: float = float("inf")


AGES = (
    Shade("c0", "within a day", _DAY),
    Shade("c1", "within a week", 7 * _DAY),
    Shade("c2", "within a month", 30 * _DAY),
    Shade("c3", "longer ago"),
    Shade("never", "never proved identical"),
    Shade("found", "found to differ"),
)
NEVER, FOUND = AGES[4], AGES[5]


@dataclass(frozen=True)
class Cell:
    """A stretch of the device. ``shade`` and ``proved``: of its worst region."""

    offset: int
    length: int
    shade: Shade
    proved: int | None


def region_shades(report: VerifyReport, now: float) -> list[Shade]:
    """Of every region."""
    differ = {
        region
        for finding in report.findings
        if finding.open
        for region in range(
            finding.offset // report.region_bytes,
            (finding.offset + finding.length - 1) // report.region_bytes + 1,
        )
    }
    return [FOUND if region in differ else _by_age(at, now) for region, at in enumerate(report.proved)]


def _by_age(proved: int | None, now: float) -> Shade:
    if proved is None:
        return NEVER
    return next(shade for shade in AGES if now - proved <= shade.within)


def cells(report: VerifyReport, now: float, *, most: int) -> list[Cell]:
    """The map in ``most`` cells at most, each of as many regions."""
    shades = region_shades(report, now)
    each = max(1, -(-len(shades) // most))
    found = []
    for first in range(0, len(shades), each):
        worst = max(range(first, min(first + each, len(shades))), key=lambda at: AGES.index(shades[at]))
        offset = first * report.region_bytes
        length = min(each * report.region_bytes, report.size - offset)
        found.append(Cell(offset, length, shades[worst], report.proved[worst]))
    return found


def shares(report: VerifyReport, now: float) -> Iterator[tuple[Shade, str]]:
    """How much of the device has each shade; those that nothing has are left out."""
    shades = region_shades(report, now)
    for shade in AGES:
        size = sum(
            min(report.region_bytes, report.size - region * report.region_bytes)
            for region, its in enumerate(shades)
            if its is shade
        )
        if size:
            yield shade, percent(size, report.size)


def percent(part: int, whole: int) -> str:
    """Rounded down: what is not all of it must not look like it. What is something is not nothing."""
    tenths = 1000 * part // whole
    return f"{tenths / 10:g} %" if tenths or not part else "< 0.1 %"
