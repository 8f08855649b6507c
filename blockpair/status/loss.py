"""What one side of a split brain would lose, from its metadata. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Loss(Struct, frozen=True):
    """What this node changed that ``peer`` lacks. ``changed_bytes``: marked block by block, in ``extents``
    runs; ``possible_bytes``: in write-intent extents besides, where a block may or may not have changed;
    ``whole``: nobody knows what changed, so it is everything; ``complete``: no run was left out.
    """

    peer: str
    extents: int
    changed_blocks: int
    changed_bytes: int
    possible_bytes: int
    whole: bool
    complete: bool


def loss(dump: dict[str, Any], peer: str) -> tuple[Loss, list[tuple[int, int]]]:
    """The loss by ``dump``, a metadata dump, and the ranges of the device that it is in: offset and length in
    bytes. Raises `KeyError` for a peer that the metadata does not know.
    """
    size, block, extent = (dump[f"{unit}_size_bytes"] for unit in ("data", "block", "extent"))
    entry = next((found for found in dump["peers"] if found["name"] == peer), None)
    if entry is None:
        raise KeyError(peer)
    whole = bool(entry["full_sync"])
    changed = [(0, size)] if whole else _ranges(entry["dirty_runs"], block, size)
    hot = [] if whole else _ranges(dump["intent_runs"], extent, size)
    changed_bytes = sum(length for _, length in changed)
    union = _union([*changed, *hot])
    found = Loss(
        peer=peer,
        extents=len(changed),
        changed_blocks=-(-changed_bytes // block),
        changed_bytes=changed_bytes,
        possible_bytes=sum(length for _, length in union) - changed_bytes,
        whole=whole,
        complete=not dump["truncated"],
    )
    return found, union


def _ranges(runs: list[list[int]], unit: int, size: int) -> list[tuple[int, int]]:
    """Runs of units as offsets and lengths in bytes; the device may end within a unit."""
    return [(first * unit, min((first + count) * unit, size) - first * unit) for first, count in runs]


def _union(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if found and offset <= sum(found[-1]):
            first, reached = found[-1][0], sum(found[-1])
            found[-1] = (first, max(reached, offset + length) - first)
        else:
            found.append((offset, length))
    return found
