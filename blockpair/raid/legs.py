"""Reads the copies that the members of an array have of the same bytes, each from its member."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from blockpair.raid.layout import stretches
from blockpair.raid.model import Array, Part
from blockpair.raid.sysfs import BLOCK, attribute_number, attribute_text

_SECTOR = 512
LEVELS = ("raid1", "raid10")


@dataclass(frozen=True)
class Piece:
    """Bytes of an array in one piece on each member, inside one block. ``copies``: by the member's kernel
    name; None where it cannot be read, or is known to be bad.
    """

    offset: int
    length: int
    copies: Mapping[str, bytes | None]


class Legs:
    """The members of a raid1 or raid10 that lacks none. A context manager. ``block_bytes`` and ``start``:
    pieces end where a block does, the first of which begins at ``start``; ``devices``: where the members are.
    Raises `OSError` where one cannot be opened.
    """

    def __init__(
        self, array: Array, block_bytes: int, start: int, *, block: Path = BLOCK, devices: Path = Path("/dev")
    ) -> None:
        self._array, self._block, self._start = array, block_bytes, start
        self._folder, self._devices = block / array.device / "md", devices
        self._members = {m.slot: m.device for m in array.having(Part.ACTIVE) if m.slot is not None}
        self._files: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        self._open = ExitStack()

    def __enter__(self) -> Legs:
        with ExitStack() as opened:
            for device in self._members.values():
                # Past the page cache, which knows nothing of what md writes.
                flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
                self._files[device] = os.open(self._devices / device, flags)
                opened.callback(os.close, self._files[device])
                folder = self._folder / f"dev-{device}"
                self._offsets[device] = attribute_number(folder / "offset") * _SECTOR
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def whole(self) -> bool:
        """Whether all of them still serve: one that has left has old data."""
        return all(
            attribute_text(self._folder / f"dev-{device}" / "slot") == str(slot)
            and "in_sync" in (words := attribute_text(self._folder / f"dev-{device}" / "state").split(","))
            and "faulty" not in words
            for slot, device in self._members.items()
        )

    def read(self, offset: int, length: int) -> Iterator[Piece]:
        """All copies of these bytes of the array, which are whole sectors."""
        array = self._array
        for stretch in stretches(array.geometry, array.chunk_bytes, array.component_bytes, offset, length):
            cuts = list(self._cuts(stretch.offset, stretch.length))
            copies = {
                self._members[slot]: self._copy(self._members[slot], at, stretch.offset, cuts)
                for slot, at in stretch.copies
            }
            for number, (at, size) in enumerate(cuts):
                yield Piece(at, size, {device: pieces[number] for device, pieces in copies.items()})

    def _cuts(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Offset and length of the parts of it that lie in one block each."""
        end = offset + length
        while offset < end:
            size = min(self._block - (offset - self._start) % self._block, end - offset)
            yield offset, size
            offset += size

    def _copy(self, device: str, at: int, base: int, cuts: list[tuple[int, int]]) -> list[bytes | None]:
        """What a member has of these pieces; ``at``: where it has ``base``."""
        length = sum(size for _, size in cuts)
        bad = self._bad(device)
        data = self._pread(device, at, length)
        found: list[bytes | None] = []
        for offset, size in cuts:
            first = offset - base
            if any(begin < at + first + size and at + first < end for begin, end in bad):
                found.append(None)
            elif data is not None:
                found.append(data[first : first + size])
            else:
                # One sector of it cannot be read: which one?
                found.append(self._pread(device, at + first, size))
        return found

    def _pread(self, device: str, at: int, length: int) -> bytes | None:
        with mmap.mmap(-1, length) as aligned:
            try:
                read = os.preadv(self._files[device], [aligned], self._offsets[device] + at)
            except OSError:
                return None
            return aligned[:] if read == length else None

    def _bad(self, device: str) -> list[tuple[int, int]]:
        """What md has on record as unreadable there, as begin and end: it may be old as well."""
        text = attribute_text(self._folder / f"dev-{device}" / "bad_blocks")
        found = []
        for line in text.splitlines():
            first, count = (int(word) * _SECTOR for word in line.split())
            # Counted from the begin of the device.
            begin = first - self._offsets[device]
            found.append((begin, begin + count))
        return found
