"""Finds where the copies of an array differ, and has the peer of the resource on it decide which is right.

A difference that is seen in passing may be a write that one member has already and another has not. Only what
still differs while the engine holds its range, so that nothing is written to it, counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from blockpair.blocks import runs_of
from blockpair.errors import BlockpairError
from blockpair.raid.legs import Legs, Piece
from blockpair.raid.vote import Tally, Verdict, differ, of_block, verdict, wrong

# Read of each member at a time.
_STEP_BYTES = 1 << 20
# The engine holds no more at a time, but for a block that is larger.
_HELD_BYTES = 256 << 10
_TRIES = 3


class Holder(Protocol):
    """The engine of the resource: what is held is not written to, and the peer's copy of it is known."""

    def hold(self, offset: int, length: int) -> tuple[int, bytes]:
        """A number, and the peer's copy. Raises `BlockpairError`."""

    def settle(self, ticket: int, runs: Sequence[tuple[int, int]], why: str) -> None:
        """Write these blocks (first and count) as the peer has them, and let go. Raises
        `BlockpairError`.
        """


class Interrupted(Exception):
    """It cannot go on now, and why: from ``at`` on it is still to be done. ``stuck``: the bytes there that it
    could not be decided on; 0 where something else came first.
    """

    def __init__(self, why: str, at: int, stuck: int = 0) -> None:
        super().__init__(why)
        self.why, self.at, self.stuck = why, at, stuck


class Settling:
    """One pass over the data of a resource, whose byte 0 is at ``start`` of the array, and which has ``size``
    bytes in blocks of ``block``.
    """

    def __init__(self, legs: Legs, holder: Holder, *, start: int, size: int, block: int) -> None:
        self._legs, self._holder = legs, holder
        self._start, self._size, self._block = start, size, block
        self._span = max(_HELD_BYTES // block, 1) * block
        self.tally = Tally()

    def run(self, begin: int, rest: Callable[[], bool]) -> None:
        """From byte ``begin`` of the resource on to its end. ``rest``: called after each step; false: it
        shall end. Raises `Interrupted`.
        """
        step = max(_STEP_BYTES // self._span, 1) * self._span
        for at in range(begin, self._size, step):
            length = min(step, self._size - at)
            for first in self._spans(self._differing(at, length)):
                self._decide(first)
            self.tally.compared += length
            if not rest():
                raise Interrupted("it was ended", at + length)

    def _read(self, offset: int, length: int) -> dict[int, list[Piece]]:
        """The pieces of each block of the resource, by the block's number."""
        blocks: dict[int, list[Piece]] = {}
        for piece in self._legs.read(self._start + offset, length):
            blocks.setdefault((piece.offset - self._start) // self._block, []).append(piece)
        return blocks

    def _differing(self, offset: int, length: int) -> list[int]:
        """The blocks that are to be looked at again."""
        return [
            block
            for block, pieces in self._read(offset, length).items()
            if any(differ(piece.copies.values()) for piece in pieces)
        ]

    def _spans(self, blocks: Iterable[int]) -> list[list[int]]:
        """Blocks in rising order, as many together as can be held."""
        spans: list[list[int]] = []
        for block in blocks:
            if spans and (block + 1 - spans[-1][0]) * self._block <= self._span:
                spans[-1].append(block)
            else:
                spans.append([block])
        return spans

    def _place(self, blocks: Sequence[int]) -> tuple[int, int]:
        offset = blocks[0] * self._block
        return offset, min((blocks[-1] + 1) * self._block, self._size) - offset

    def _decide(self, blocks: Sequence[int]) -> None:
        """Until nothing of it differs, or what does is not to be decided here."""
        wrote: set[int] = set()
        failure = ""
        for _ in range(_TRIES):
            offset, length = self._place(blocks)
            # Seldom the same write is still on its way.
            again = [block for block in self._differing(offset, length) if block in blocks]
            if not again:
                return
            try:
                healed, left = self._vote(again)
            except BlockpairError as error:
                failure = error.message
                continue
            for block in healed.keys() - wrote:
                self._count(block, healed[block])
            wrote |= healed.keys()
            for outcome, count in left.items():
                if outcome is Verdict.UNDECIDED:
                    self.tally.undecided += count * self._block
                else:
                    self.tally.peer_differs += count * self._block
            if not healed:
                return
            blocks, failure = sorted(healed), ""
        if failure and len(blocks) > 1:
            # One that the peer cannot read does not keep the others from it.
            for block in blocks:
                self._decide([block])
            return
        if failure:
            raise Interrupted(failure, *self._place(blocks))
        if wrote and (stubborn := [b for b in self._differing(*self._place(blocks)) if b in wrote]):
            self.tally.stubborn += len(stubborn) * self._block

    def _count(self, block: int, devices: Iterable[str]) -> None:
        size = self._place([block])[1]
        self.tally.healed += size
        self.tally.members.update(dict.fromkeys(devices, size))

    def _vote(self, blocks: Sequence[int]) -> tuple[dict[int, set[str]], Mapping[Verdict, int]]:
        """With the range held: the blocks that were written anew, each with the members whose copy was wrong,
        and how many cannot be decided.
        """
        offset, length = self._place(blocks)
        ticket, data = self._holder.hold(offset, length)
        heal: dict[int, set[str]] = {}
        left: Counter[Verdict] = Counter()
        try:
            if not self._legs.whole():
                raise Interrupted("a member has left the array", offset)
            for block, pieces in self._read(offset, length).items():
                if block not in blocks:
                    continue
                told = [(piece, self._peers(data, offset, piece)) for piece in pieces]
                match of_block(verdict(list(piece.copies.values()), peer) for piece, peer in told):
                    case Verdict.HEAL:
                        heal[block] = {dev for piece, peer in told for dev in wrong(piece.copies, peer)}
                    case Verdict.SAME:
                        pass
                    case other:
                        left[other] += 1
        except BaseException:
            self._holder.settle(ticket, [], "")
            raise
        whose = ", ".join(sorted(set().union(*heal.values())))
        self._holder.settle(ticket, runs_of(heal), f"copies in the array were wrong, on {whose}")
        return heal, left

    def _peers(self, data: bytes, offset: int, piece: Piece) -> bytes:
        first = piece.offset - self._start - offset
        return data[first : first + piece.length]
