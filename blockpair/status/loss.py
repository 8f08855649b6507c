"""What the sides of a split brain would lose, from their metadata, and how a peer is told of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from blockpair.status.plan import Plan

# What the replication protocol carries of a report: wire/message.rs.
REPORT_MAX = 64 << 10


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


class Marks(Struct, frozen=True):
    """What a running engine has marked for a peer. ``dirty_blocks`` have changed; ``runs``, first block and
    count, are those and the suspect ones, null where there are too many; times 0: not known.
    """

    size_bytes: int
    block_size_bytes: int
    dirty_blocks: int
    full_sync: bool
    diverged_at_s: int
    changed_at_s: int
    runs: list[tuple[int, int]] | None


class FileList(Struct, frozen=True):
    """``file_system``: its kind, null where none is understood; ``paths``: files that the bytes belong to;
    ``other_blocks``: blocks of no named file; ``complete``: no limit was reached; ``problem``: why there
    is no list, or null; ``unseen_bytes``: of the bytes, those that were too many to be looked up.
    """

    file_system: str | None = None
    paths: tuple[str, ...] = ()
    other_blocks: int = 0
    complete: bool = True
    problem: str | None = None
    unseen_bytes: int = 0


class SideLoss(Struct, frozen=True):
    """What would be lost if ``node`` gave up its side. Times in seconds since 1970, by its clock: when it
    went on alone, and when it last noted a change; null: not known. ``bundle``: the path there of the newest
    bundle of what it lost earlier. ``problem``: why nothing is known.
    """

    node: str
    problem: str | None = None
    loss: Loss | None = None
    files: FileList | None = None
    diverged_at_s: int | None = None
    changed_at_s: int | None = None
    bundle: str | None = None


class BothLosses(Struct, frozen=True):
    """Both sides, this node's first, and what a connect would do about it; ``plan`` null: not known."""

    name: str
    sides: tuple[SideLoss, SideLoss]
    plan: Plan | None


def encode_report(side: SideLoss) -> str:
    """``side`` for a peer that asks, cut to what the protocol carries."""
    while len(text := msgspec.json.encode(side)) > REPORT_MAX:
        files = side.files
        if files is None or not files.paths:
            side = SideLoss(side.node, problem="its report is too long")
        else:
            fewer = files.paths[: len(files.paths) // 2]
            side = msgspec.structs.replace(
                side, files=msgspec.structs.replace(files, paths=fewer, complete=False)
            )
    return text.decode()


def decode_report(text: str, node: str) -> SideLoss:
    """What the daemon of ``node`` said; whatever it was, a side of that node comes of it."""
    try:
        side = msgspec.json.decode(text, type=SideLoss)
    except (msgspec.DecodeError, RecursionError) as error:
        return SideLoss(node, problem=f"what its daemon says is not understood: {error}")
    return msgspec.structs.replace(side, node=node)


def live_loss(marks: Marks, peer: str) -> tuple[Loss, list[tuple[int, int]]] | None:
    """The loss by a running engine's marks, as `loss`; None where they are too many to be listed."""
    if marks.runs is None:
        return None
    size, block = marks.size_bytes, marks.block_size_bytes
    ranges = [(0, size)] if marks.full_sync else _ranges(marks.runs, block, size)
    marked = sum(length for _, length in ranges)
    changed = marked if marks.full_sync else min(marks.dirty_blocks * block, marked)
    found = Loss(
        peer=peer,
        extents=len(ranges),
        changed_blocks=-(-changed // block),
        changed_bytes=changed,
        possible_bytes=marked - changed,
        whole=marks.full_sync,
        complete=True,
    )
    return found, ranges


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


def _ranges(runs: Iterable[Sequence[int]], unit: int, size: int) -> list[tuple[int, int]]:
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
