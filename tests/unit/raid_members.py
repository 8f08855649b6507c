"""A raid10 whose members are files, a resource on it, and a peer with the same data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid.layout import Geometry, capacity, stretches
from blockpair.raid.legs import Legs
from blockpair.raid.model import Array
from blockpair.raid.settle import Settling
from blockpair.raid.vote import Tally
from tests.unit.raid_samples import array, member

CHUNK, BLOCK, OFFSET, START = 16 << 10, 4096, 64 << 10, 8 << 10
COMPONENT = 96 << 10


class Members:
    """A raid10 of files, with a resource on it that begins at ``START``; and a peer with the same data."""

    def __init__(self, folder: Path, shape: Geometry) -> None:
        self.shape, self.sysfs, self.devices = shape, folder / "sys", folder / "dev"
        self.devices.mkdir()
        names = [f"sd{chr(ord('a') + slot)}" for slot in range(shape.slots)]
        self.array: Array = replace(
            array("data", tuple(member(name, slot) for slot, name in enumerate(names))),
            geometry=shape,
            chunk_bytes=CHUNK,
            component_bytes=COMPONENT,
        )
        for slot, name in enumerate(names):
            entry = self.sysfs / self.array.device / "md" / f"dev-{name}"
            entry.mkdir(parents=True)
            (entry / "offset").write_text(f"{OFFSET // 512}\n")
            (entry / "slot").write_text(f"{slot}\n")
            (entry / "state").write_text("in_sync\n")
            (self.devices / name).write_bytes(bytes(OFFSET + COMPONENT))
        self.names = names
        self.size = capacity(shape, COMPONENT, CHUNK) - START
        self.peer = bytearray(os.urandom(self.size))
        self.writes: list[tuple[int, int]] = []
        self.fails = 0
        self.held: tuple[int, int] | None = None
        self.on_hold: Callable[[], object] = lambda: None
        self.write(0, bytes(self.peer))

    def write(self, offset: int, data: bytes, only: int | None = None) -> None:
        """As md does: on every copy; ``only``: on that one, as a disk that lies does."""
        for stretch in stretches(self.shape, CHUNK, COMPONENT, START + offset, len(data)):
            piece = data[stretch.offset - START - offset :][: stretch.length]
            for number, (slot, at) in enumerate(stretch.copies):
                if only in (None, number):
                    with (self.devices / self.names[slot]).open("r+b") as file:
                        file.seek(OFFSET + at)
                        file.write(piece)

    def hold(self, offset: int, length: int) -> tuple[int, bytes]:
        assert self.held is None and offset % BLOCK == 0
        if self.fails:
            self.fails -= 1
            raise BlockpairError(ErrorKind.FAILED, "the connection was lost", "")
        self.held = (offset, length)
        self.on_hold()
        return 7, bytes(self.peer[offset : offset + length])

    def settle(self, ticket: int, runs: Sequence[tuple[int, int]], why: str) -> None:
        assert ticket == 7 and self.held is not None
        offset, length = self.held
        self.held = None
        for first, count in runs:
            assert offset <= first * BLOCK and (first + count) * BLOCK <= offset + length + BLOCK - 1
            self.writes.append((first, count))
            at, end = first * BLOCK, min((first + count) * BLOCK, self.size)
            self.write(at, bytes(self.peer[at:end]))

    def settled(self, begin: int = 0) -> Tally:
        with Legs(self.array, BLOCK, START, block=self.sysfs, devices=self.devices) as legs:
            settling = Settling(legs, self, start=START, size=self.size, block=BLOCK)
            settling.run(begin, lambda: True)
        return settling.tally

    def equal(self) -> bool:
        """Whether every copy is what the peer has."""
        with Legs(self.array, BLOCK, START, block=self.sysfs, devices=self.devices) as legs:
            return all(
                set(piece.copies.values()) == {bytes(self.peer[piece.offset - START :][: piece.length])}
                for piece in legs.read(START, self.size)
            )
