"""Which copy of something in an array is right, decided by the copy of the resource's peer. Pure.

md cannot tell: two copies that differ are one vote each. The peer's is the third, of another machine's disks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What the copies of a piece are. ``SAME``: there is nothing to decide; ``HEAL``: the peer's is right,
    and goes over all of them; ``PEER_DIFFERS``: they agree with each other, and not with the peer's: that is
    for `blockpair verify`; ``UNDECIDED``: no two agree.
    """

    SAME = "same"
    HEAL = "heal"
    PEER_DIFFERS = "peer-differs"
    UNDECIDED = "undecided"


def verdict(copies: Sequence[bytes | None], peer: bytes) -> Verdict:
    """Of one piece. ``copies``: as each member has it, None where it cannot be read."""
    read = [copy for copy in copies if copy is not None]
    if not read or peer in read:
        return Verdict.SAME if len(read) == len(copies) and set(read) == {peer} else Verdict.HEAL
    return Verdict.PEER_DIFFERS if len(set(read)) == 1 else Verdict.UNDECIDED


def wrong(copies: Mapping[str, bytes | None], peer: bytes) -> list[str]:
    """The members whose copy is not the peer's."""
    return sorted(device for device, copy in copies.items() if copy != peer)


def differ(copies: Iterable[bytes | None]) -> bool:
    """Whether they are to be voted on: not all could be read, or not all are the same."""
    found = set(copies)
    return len(found) > 1 or None in found


def of_block(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a block that lies in pieces on different members: it is written as a whole, or not at all."""
    found = set(verdicts)
    for worst in (Verdict.UNDECIDED, Verdict.PEER_DIFFERS, Verdict.HEAL):
        if worst in found:
            return worst
    return Verdict.SAME


@dataclass
class Tally:
    """What came of it, in bytes. ``healed``: written anew as the peer has it; ``members``: whose copies that
    were; ``undecided``: no two copies agree; ``peer_differs``: all in the array agree, and the peer's does
    not; ``stubborn``: differs again after it was written.
    """

    compared: int = 0
    healed: int = 0
    undecided: int = 0
    peer_differs: int = 0
    stubborn: int = 0
    members: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """What a person has to see to."""
        return self.undecided + self.peer_differs + self.stubborn
