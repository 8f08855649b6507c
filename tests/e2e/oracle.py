"""What each block of a device may hold, given what was issued, acknowledged, and never answered."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

BLOCK = 4096
_TAG = struct.Struct("<Q")


def content(tag: int) -> bytes:
    """A block that only the write of this tag makes; tag 0 is a block of zeroes."""
    return _TAG.pack(tag) * (BLOCK // _TAG.size)


@dataclass
class Change:
    """A write, trim or zeroing of whole blocks. Times are the oracle's own count of steps."""

    tag: int
    blocks: range
    issued: int
    ended: int | None = None
    """When its reply came, or its connection was lost."""
    acknowledged: bool = False


@dataclass
class Oracle:
    """Per block, every change that may be the last to have reached it.

    An acknowledged change rules out those that had ended before it was issued. One that was never answered
    rules out nothing: it may have happened or not.
    """

    blocks: int
    acknowledged: int = 0
    _steps: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _candidates: list[list[Change]] = field(default_factory=list)

    def __post_init__(self) -> None:
        nothing = Change(0, range(self.blocks), 0, 0, acknowledged=True)
        self._candidates = [[nothing] for _ in range(self.blocks)]

    def issue(self, first: int, count: int, *, zero: bool) -> Change:
        """A change that is about to be sent."""
        step = next(self._steps)
        change = Change(0 if zero else step, range(first, first + count), step)
        for block in change.blocks:
            self._candidates[block].append(change)
        return change

    def acknowledge(self, change: Change) -> None:
        """It was answered: from now on it must never be lost."""
        change.ended, change.acknowledged = next(self._steps), True
        self.acknowledged += 1
        for block in change.blocks:
            self._candidates[block] = [
                other
                for other in self._candidates[block]
                if other is change or other.ended is None or other.ended >= change.issued
            ]

    def lose(self, changes: Iterable[Change]) -> None:
        """The connection broke before their answers."""
        for change in changes:
            change.ended = next(self._steps)

    def wrong(self, data: bytes, *, settle: bool) -> list[str]:
        """The blocks of ``data``, the whole device, that hold what they may not.

        ``settle``: nothing is on its way, so what each holds now it must hold until it is written again.
        """
        found = []
        for block, candidates in enumerate(self._candidates):
            seen = data[block * BLOCK : (block + 1) * BLOCK]
            (tag,) = _TAG.unpack_from(seen)
            fitting = [change for change in candidates if change.tag == tag]
            if not fitting or seen != content(tag):
                may = ", ".join(f"{c.tag}{'' if c.acknowledged else '?'}" for c in candidates)
                found.append(f"block {block} holds {tag}, may hold {may}")
            elif settle and len(candidates) > 1:
                self._candidates[block] = fitting[-1:]
        return found
