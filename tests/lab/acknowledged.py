"""What writers were told is durable, and whether it still is there: blocks that know themselves, and a judge.

Writers on both nodes write whenever their node serves the device. Each tells the outside of every write
before it begins and after it was acknowledged (written and synced). A *tenure* is the time from a writer's
opening of the device to its first error or its rest. Afterwards every block is read, and the judge names:

- a block that is torn, is another block's, or was never written by anybody;
- an acknowledged write that is gone: its block holds something older, or nothing;
- two writers: a node began a write, and had it acknowledged, after another node's tenure had begun to.

Each node has blocks that it alone writes, so that what one history lost cannot hide under the other's writes.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.lab.journal import Line

BLOCK = 4096
_PIECE = struct.Struct("<4sI4sQQ")  # magic, life, node, sequence, block; a checksum follows
_SUM = struct.Struct("<I")
_MAGIC = b"bpW1"
_SIZE = _PIECE.size + _SUM.size  # 32 bytes, so that a block of 4096 consists of them


@dataclass(frozen=True)
class Stamp:
    """Which write a block is of: the run of the writer (``life``), its node, the number of the write in
    it."""

    life: int
    node: str
    sequence: int
    block: int

    def __str__(self) -> str:
        return f"write {self.sequence} of {self.node} (writer {self.life})"

    def content(self) -> bytes:
        """The whole block. Every 32 bytes carry the stamp, so that any mixture of two is seen."""
        piece = _PIECE.pack(_MAGIC, self.life, self.node.encode(), self.sequence, self.block)
        return (piece + _SUM.pack(zlib.crc32(piece))) * (BLOCK // _SIZE)


class NotWhole(ValueError):
    """A block is no write of a writer; the message says what it is."""


Held = Stamp | None | NotWhole  # what a block was found to hold


def read_block(data: bytes, block: int) -> Stamp | None:
    """The write that block number ``block`` holds; None for zeroes. Raises `NotWhole`."""
    if data == bytes(BLOCK):
        return None
    piece, (checksum,) = data[: _PIECE.size], _SUM.unpack_from(data, _PIECE.size)
    magic, life, node, sequence, number = _PIECE.unpack(piece)
    if magic != _MAGIC or checksum != zlib.crc32(piece):
        raise NotWhole("bytes that no writer wrote")
    stamp = Stamp(life, node.rstrip(b"\0").decode(), sequence, number)
    if data != stamp.content():
        raise NotWhole(f"a part of {stamp}, and something else")
    if number != block:
        raise NotWhole(f"{stamp}, which is of block {number}")
    return stamp


def blocks_of(node: int, blocks: int) -> tuple[range, range]:
    """Of the numbers below ``blocks``: those that only node 0 or 1 writes, and those that both write."""
    return range(node, blocks, 3), range(2, blocks, 3)


@dataclass
class Write:
    """One write, with the times at which the outside heard of it; ``acknowledged`` is None if it never
    was."""

    stamp: Stamp
    begun: float
    acknowledged: float | None = None


@dataclass
class Tenure:
    """A writer's writes from its opening of the device on; ``end`` is ``rest``, an error's name, or None."""

    node: str
    life: int
    number: int
    writes: list[Write] = field(default_factory=list)
    end: str | None = None

    @property
    def acknowledged(self) -> list[Write]:
        return [write for write in self.writes if write.acknowledged is not None]

    @property
    def place(self) -> float:
        """When it became the writer: its first acknowledgement, or else its first attempt."""
        known = [write.acknowledged for write in self.writes if write.acknowledged is not None]
        return known[0] if known else min((write.begun for write in self.writes), default=float("inf"))


def parse_held(words: Sequence[str], block: int) -> Held:
    """What a program of a guest said that a block holds: as `held_text` puts it."""
    match words:
        case []:
            return None
        case ["!", *rest]:
            return NotWhole(" ".join(rest))
        case [life, node, sequence]:
            return Stamp(int(life), node, int(sequence), block)
    raise ValueError(f"block {block}: {words}")


def held_text(data: bytes, block: int) -> str:
    """What a block holds, in words: a stamp's life, node and sequence; nothing for zeroes; what is wrong."""
    try:
        stamp = read_block(data, block)
    except NotWhole as error:
        return f"! {error}"
    return f"{stamp.life} {stamp.node} {stamp.sequence}" if stamp else ""


def tenures(node: str, lines: Iterable[Line]) -> list[Tenure]:
    """The tenures that a node's writers told of. Raises ValueError at a line that makes no sense."""
    found: list[Tenure] = []
    for line in lines:
        match line.text.split():
            case ["begin", life, number]:
                found.append(Tenure(node, int(life), int(number)))
            case ["try", life, sequence, block]:
                stamp = Stamp(int(life), node, int(sequence), int(block))
                found[-1].writes.append(Write(stamp, line.at))
            case ["ok", life, sequence]:
                last = found[-1].writes[-1]
                if (last.stamp.life, last.stamp.sequence) != (int(life), int(sequence)):
                    raise ValueError(f"{node}: {line.text!r} after the beginning of {last.stamp}")
                last.acknowledged = line.at
            case ["end", _, _, reason]:
                found[-1].end = reason
            case ["ready" | "rest", _] | ["read" | "saw" | "miss", *_]:
                pass
            case _:
                raise ValueError(f"{node}: no line of a writer: {line.text!r}")
    return [tenure for tenure in found if tenure.writes]


def in_order(heard: Iterable[Tenure]) -> Mapping[int, list[Write]]:
    """The writes of each block, by the order of tenures."""
    writes: dict[int, list[Write]] = defaultdict(list)
    for tenure in sorted(heard, key=lambda tenure: tenure.place):
        for write in tenure.writes:
            writes[write.stamp.block].append(write)
    return writes


def judge(held: Mapping[int, Held], before: Mapping[int, Stamp | None], heard: Sequence[Tenure]) -> list[str]:
    """What is wrong with the blocks, or with the writers; empty when nothing is.

    ``before``: what each block held when the first of the tenures began.
    """
    wrong = _two_writers(sorted(heard, key=lambda tenure: tenure.place))
    writes = in_order(heard)
    for block in sorted(before):
        if block not in held:
            wrong.append(f"block {block} was not read")
            continue
        found = held[block]
        if isinstance(found, NotWhole):
            wrong.append(f"block {block} holds {found}")
            continue
        last = max((n for n, write in enumerate(writes[block]) if write.acknowledged is not None), default=-1)
        may = {write.stamp for write in writes[block][max(last, 0) :]} | (
            {before[block]} if last < 0 else set()
        )
        if found not in may:
            lost = (
                f"{writes[block][last].stamp}, acknowledged, is lost"
                if last >= 0
                else "it was not written so"
            )
            wrong.append(f"block {block} holds {found or 'nothing'}: {lost}")
    return wrong


def _two_writers(ordered: Sequence[Tenure]) -> list[str]:
    wrong = []
    for n, tenure in enumerate(ordered):
        for later in ordered[n + 1 :]:
            if later.node == tenure.node or not later.acknowledged:
                continue
            both = [write for write in tenure.acknowledged if write.begun > later.place]
            if both:
                after = both[0].begun - later.place
                wrong.append(
                    f"two writers: {tenure.node} began {len(both)} writes that were acknowledged, from "
                    f"{both[0].stamp} on, {after:.3f} s and more after {later.node} had become the writer"
                )
    return wrong
