"""Which devices may become members or spares. Pure: the devices were looked at before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blockpair.errors import ErrorKind
from blockpair.raid.model import Disk
from blockpair.units import format_size

# mdadm warns from here on too: members that differ more were rarely meant to be together.
SIZE_TOLERANCE = 0.01
# Below this nothing is left beside md's superblock and bitmap.
SMALLEST_BYTES = 8 << 20


@dataclass(frozen=True)
class Refusal:
    """Why a device is not taken, and what to do. ``forced``: --force overrides it."""

    kind: ErrorKind
    device: str
    reason: str
    remedy: str
    forced: bool = False


def refusals(
    disks: Sequence[Disk],
    *,
    present: Iterable[Disk] = (),
    at_least: int = 0,
    tolerance: float | None = SIZE_TOLERANCE,
    force: bool = False,
) -> list[Refusal]:
    """Why ``disks`` cannot be in one array with the members ``present``; empty when they can.

    ``at_least``: bytes that each must have. ``tolerance``: by which part of the largest they may differ in
    size; None: by any. ``force`` permits signatures, which are then wiped; never a device that is in use.
    """
    found = [refusal for disk in disks for refusal in _alone(disk, at_least)]
    found += _twice(disks, list(present))
    if tolerance is not None:
        found += _unequal(disks, tolerance)
    return [refusal for refusal in found if not (force and refusal.forced)]


def _alone(disk: Disk, at_least: int) -> list[Refusal]:
    if disk.uses:
        return [
            Refusal(
                ErrorKind.IN_USE,
                disk.path,
                f"it is {'; '.join(disk.uses)}",
                "stop what uses it, or choose another device (`lsblk`)",
            )
        ]
    found = []
    if disk.read_only:
        found.append(
            Refusal(ErrorKind.UNSAFE, disk.path, "it is read-only", "choose a device that can be written")
        )
    needed = max(at_least, SMALLEST_BYTES)
    if disk.size_bytes < needed:
        found.append(
            Refusal(
                ErrorKind.INVALID,
                disk.path,
                f"it has {format_size(disk.size_bytes)}, {format_size(needed)} are needed",
                "choose a larger device",
            )
        )
    if disk.signatures:
        found.append(
            Refusal(
                ErrorKind.UNSAFE,
                disk.path,
                f"it carries {', '.join(disk.signatures)}",
                "choose another device; to have it overwritten, repeat the command with --force",
                forced=True,
            )
        )
    return found


def _twice(disks: Sequence[Disk], present: Sequence[Disk]) -> list[Refusal]:
    """Members that one failure would take together."""
    found = []
    before = list(present)
    for disk in disks:
        for other in before:
            if disk.disks & other.disks:
                what = (
                    "it is the same device"
                    if disk.name == other.name
                    else f"it is on the physical disk {', '.join(sorted(disk.disks & other.disks))}"
                )
                found.append(
                    Refusal(
                        ErrorKind.UNSAFE,
                        disk.path,
                        f"{what} as {other.path}: one failure would take both",
                        "each member needs a disk of its own",
                    )
                )
                break
        before.append(disk)
    return found


def _unequal(disks: Sequence[Disk], tolerance: float) -> list[Refusal]:
    if not disks:
        return []
    largest = max(disks, key=lambda disk: disk.size_bytes)
    smallest = min(disks, key=lambda disk: disk.size_bytes)
    lost = largest.size_bytes - smallest.size_bytes
    if lost <= tolerance * largest.size_bytes:
        return []
    return [
        Refusal(
            ErrorKind.INVALID,
            smallest.path,
            f"it has {format_size(smallest.size_bytes)}, but {largest.path} has "
            f"{format_size(largest.size_bytes)}: each member gives as much as the smallest, "
            f"{format_size(lost)} would be of no use",
            "choose devices of one size, or say --unequal",
        )
    ]
