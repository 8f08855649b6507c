"""Backing files: filled, so that no race pays for first-touch memory; changed in known places; compared."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

from .host import BenchFailed

STEP = 4 << 20


def fill_randomly(path: Path, size: int) -> None:
    """Makes `path` a file of `size` random bytes, all resident."""
    with path.open("wb") as image:
        for start in range(0, size, STEP):
            image.write(os.urandom(min(STEP, size - start)))


def copy(source: Path, target: Path, shift: int = 0) -> None:
    """Writes `source` over `target`, in place where it exists; rotated by `shift` steps of `STEP` bytes."""
    size = source.stat().st_size
    steps = -(-size // STEP)
    with source.open("rb", buffering=0) as reader, open_in_place(target) as writer:
        for step in range(steps):
            data = os.pread(reader.fileno(), STEP, (step + shift) % steps * STEP)
            os.pwrite(writer, data, step * STEP)


@contextlib.contextmanager
def open_in_place(path: Path) -> Iterator[int]:
    """A descriptor for writing into a file without truncating it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def change(path: Path, share: float, extent: int, seed: int) -> int:
    """Overwrites this share of the extents, scattered, with other random bytes; returns how many bytes."""
    count = path.stat().st_size // extent
    chosen = random.Random(seed).sample(range(count), max(1, round(count * share)))
    with open_in_place(path) as descriptor:
        for index in sorted(chosen):
            os.pwrite(descriptor, os.urandom(extent), index * extent)
    return len(chosen) * extent


def must_be_identical(who: str, one: Path, other: Path) -> None:
    """Raises `BenchFailed` naming the first byte that differs."""
    if one.stat().st_size != other.stat().st_size:
        raise BenchFailed(f"{who}: {one} and {other} differ in size")
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        at = 0
        while ours := left.read(STEP):
            theirs = right.read(STEP)
            if ours != theirs:
                at += next(
                    index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]
                )
                raise BenchFailed(f"{who}: {one} and {other} differ at byte {at}")
            at += len(ours)
