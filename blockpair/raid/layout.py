"""Where md puts copies, and so: how much an array holds, and which failures it survives. Pure.

Slots are the numbers of an array's places for members, from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache

_COPIES = 0xFF
_FAR_SHIFT = 8
_OFFSET_BIT = 1 << 16
_SETS_SHIFT = 17
_LAYOUT = re.compile(r"([nfo])([1-9]\d?)", re.ASCII)
# Parity members of each level; any that many may fail.
_PARITY = {"raid0": 0, "linear": 0, "raid4": 1, "raid5": 1, "raid6": 2}
LEVELS = (*_PARITY, "raid1", "raid10")
_FEWEST = {"raid0": 1, "linear": 1, "raid1": 1, "raid4": 2, "raid5": 2, "raid6": 4, "raid10": 2}


@dataclass(frozen=True)
class Geometry:
    """How an array spreads its data. ``near``, ``far`` and ``sets`` are of raid10 alone: copies next to each
    other, copies in another part of the members, and the kernel's way to confine far copies to sets.
    """

    level: str
    slots: int
    near: int = 1
    far: int = 1
    offset: bool = False
    sets: int = 0

    @property
    def layout(self) -> str:
        """As mdadm writes it: ``n2``, ``f2``, ``o2``; empty for other levels."""
        if self.level != "raid10":
            return ""
        if self.far == 1:
            return f"n{self.near}"
        return ("o" if self.offset else "f") + str(self.far) + (f"+n{self.near}" if self.near > 1 else "")


def geometry(level: str, slots: int, layout: str = "") -> Geometry:
    """A geometry as a person asks for it. ``layout``: n, f or o with a number of copies, of raid10 alone.
    Raises `ValueError` that says what cannot be.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a level; the levels are {', '.join(LEVELS)}")
    if slots < _FEWEST[level]:
        raise ValueError(f"{level} needs {_FEWEST[level]} members or more, not {slots}")
    if level != "raid10":
        if layout:
            raise ValueError(f"layout {layout!r}: only raid10 has one")
        return Geometry(level, slots)
    match = _LAYOUT.fullmatch(layout or "n2")
    if match is None:
        raise ValueError(f"{layout!r} is not a layout; write n, f or o and the number of copies, such as n2")
    copies = int(match[2])
    if not 2 <= copies <= slots:
        raise ValueError(f"layout {layout!r}: {copies} copies on {slots} members; from 2 to {slots} can be")
    if match[1] == "n":
        return Geometry(level, slots, near=copies)
    return Geometry(level, slots, far=copies, offset=match[1] == "o")


def from_md(level: str, slots: int, layout: int) -> Geometry:
    """A geometry as the kernel tells it, ``layout`` its number in sysfs."""
    if level != "raid10":
        return Geometry(level, slots)
    return Geometry(
        level,
        slots,
        near=max(1, layout & _COPIES),
        far=max(1, layout >> _FAR_SHIFT & _COPIES),
        offset=bool(layout & _OFFSET_BIT),
        sets=layout >> _SETS_SHIFT & 3,
    )


@cache
def mirrors(shape: Geometry) -> tuple[frozenset[int], ...]:
    """The sets of slots that hold all copies of something, each once: who loses a whole one loses data.
    Empty for levels without copies.
    """
    if shape.level == "raid1":
        return (frozenset(range(shape.slots)),)
    if shape.level != "raid10":
        return ()
    # The pattern begins again after as many chunks as there are slots.
    found = {_slots_of(shape, chunk) for chunk in range(shape.slots)}
    return tuple(sorted(found, key=sorted))


def _slots_of(shape: Geometry, chunk: int) -> frozenset[int]:
    """The slots of all copies of a chunk."""
    return frozenset(slot for slot, _, _ in _copies(shape, chunk))


def _copies(shape: Geometry, chunk: int) -> list[tuple[int, int, int]]:
    """Every copy of a chunk of a raid10, as drivers/md/raid10.c places them: its slot, the chunk of the
    member that it is in, and in which of the far parts, from 0: each begins a stride behind the one before.
    """
    size = _far_set_size(shape)
    left_over = shape.slots % size
    last_size = size + left_over
    last_start = (shape.slots // size - 1) * size
    found = []
    stripe, first = divmod(chunk * shape.near, shape.slots)
    if shape.offset:
        stripe *= shape.far
    for near in range(shape.near):
        further, slot = divmod(first + near, shape.slots)
        found.append((slot, stripe + further, 0))
        for part in range(1, shape.far):
            start = slot // size * size
            slot += shape.near
            if left_over and slot > last_start:
                slot = last_start + (slot - last_start) % last_size
            else:
                slot = start + slot % size
            found.append((slot, stripe + further, part))
    return found


@dataclass(frozen=True)
class Stretch:
    """Bytes of an array that lie in one piece on each of their members. ``copies``: of each its slot, and
    where it is in what the member gives to the array.
    """

    offset: int
    length: int
    copies: tuple[tuple[int, int], ...]


def stretches(
    shape: Geometry, chunk_bytes: int, component_bytes: int, offset: int, length: int
) -> Iterator[Stretch]:
    """Where the copies of ``length`` bytes of a raid1 or raid10 are."""
    end = offset + length
    if shape.level == "raid1":
        yield Stretch(offset, length, tuple((slot, offset) for slot in range(shape.slots)))
        return
    stride = (
        chunk_bytes if shape.offset else _used_chunks(shape, component_bytes // chunk_bytes) * chunk_bytes
    )
    while offset < end:
        chunk, within = divmod(offset, chunk_bytes)
        piece = min(chunk_bytes - within, end - offset)
        copies = tuple(
            (slot, at * chunk_bytes + part * stride + within) for slot, at, part in _copies(shape, chunk)
        )
        yield Stretch(offset, piece, copies)
        offset += piece


def _used_chunks(shape: Geometry, chunks: int) -> int:
    """Of a member with so many chunks, those in each of its far parts."""
    of_array = chunks // shape.far * shape.slots // shape.near
    return -(-of_array * shape.near * shape.far // shape.slots) // shape.far


def _far_set_size(shape: Geometry) -> int:
    match shape.sets:
        case 1:
            size = shape.slots // shape.far
        case 2:
            size = shape.far * shape.near
        case _:
            size = shape.slots
    return size if 0 < size <= shape.slots else shape.slots


def capacity(shape: Geometry, member_bytes: int, chunk_bytes: int) -> int:
    """Bytes an array holds, when each member gives ``member_bytes`` to it. A chunk of 0: not rounded."""
    chunk = chunk_bytes or 1
    chunks = member_bytes // chunk
    match shape.level:
        case "raid1":
            return member_bytes
        case "raid10":
            return chunks // shape.far * shape.slots // shape.near * chunk
        case _:
            return chunks * (shape.slots - _PARITY.get(shape.level, 0)) * chunk


def survives(shape: Geometry, failed: Set[int]) -> bool:
    """Whether all data is still there without the slots ``failed``."""
    return margin(shape, failed) >= 0


def margin(shape: Geometry, failed: Set[int]) -> int:
    """How many more failures it survives, whichever they are, without the slots ``failed``; below 0: data is
    missing already.
    """
    if shape.level in _PARITY:
        return _PARITY[shape.level] - len(failed)
    return min((len(mirror - failed) - 1 for mirror in mirrors(shape)), default=-1)


def critical(shape: Geometry, failed: Set[int]) -> frozenset[int]:
    """The slots that are there and whose loss, one alone, would lose data. Empty if data is missing
    already.
    """
    if not survives(shape, failed):
        return frozenset()
    return frozenset(
        slot for slot in range(shape.slots) if slot not in failed and not survives(shape, {*failed, slot})
    )
