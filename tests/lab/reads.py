"""What readers saw while the nodes were failing: never the past.

A reader on each node reads blocks while its node serves the device, beside the writer, which may have to wait
much longer. It tells of each read before it begins and after it was answered. What was acknowledged anywhere
before a read began, or something newer, is what it must have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.lab.acknowledged import Held, NotWhole, Stamp, Tenure, in_order, parse_held
from tests.lab.journal import Line

# By how much lines of two guests may come in another order than they were written.
_SKEW_S = 0.1


@dataclass(frozen=True)
class Read:
    """A read that was answered, and when the outside heard that it began."""

    node: str
    block: int
    begun: float
    saw: Held


def reads(node: str, lines: Iterable[Line]) -> list[Read]:
    """The reads of a node's readers that were answered."""
    found: list[Read] = []
    begun: dict[str, float] = {}  # by life
    for line in lines:
        match line.text.split():
            case ["read", life, _]:
                begun[life] = line.at
            case ["saw", life, block, *words]:
                found.append(Read(node, int(block), begun.pop(life), parse_held(words, int(block))))
    return found


def stale(done: Sequence[Read], before: Mapping[int, Stamp | None], heard: Sequence[Tenure]) -> list[str]:
    """The reads that saw what was overwritten before they began, or what nobody wrote; a line a node."""
    writes = in_order(heard)
    wrong: dict[str, list[str]] = {}
    for read in done:
        own = writes.get(read.block, [])
        known = [
            n
            for n, write in enumerate(own)
            if write.acknowledged is not None
            and write.acknowledged < read.begun - (0 if write.stamp.node == read.node else _SKEW_S)
        ]
        least = max(known, default=-1)
        may: set[Held] = {write.stamp for write in own[max(least, 0) :]}
        if least < 0:
            may.add(before[read.block])
        if isinstance(read.saw, NotWhole) or read.saw not in may:
            after = ""
            if least >= 0:
                ago = read.begun - (own[least].acknowledged or 0)
                after = f", {ago:.3f} s after {own[least].stamp} was acknowledged"
            wrong.setdefault(read.node, []).append(
                f"block {read.block} was read as {read.saw or 'nothing'}{after}"
            )
    return [f"{node} read the past {len(found)} times: {found[0]}" for node, found in wrong.items()]
