"""What is done to arrays, as data: commands with their consequences, to be shown before, or instead of, being
carried out. Pure.

What is taken out has the kernel's name, as mdadm allows there: its node in /dev may have gone with the disk.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from blockpair.raid.conf import Entry
from blockpair.raid.layout import Geometry, capacity
from blockpair.raid.model import Array, Disk, Part
from blockpair.units import format_size

# Both superblocks of a resource's metadata.
SUPERBLOCKS_BYTES = 8192
INITRAMFS = "update-initramfs -u"


@dataclass(frozen=True)
class Command:
    """A program to run."""

    arguments: tuple[str, ...]
    consequence: str

    @property
    def shown(self) -> str:
        return shlex.join(self.arguments)


@dataclass(frozen=True)
class Remember:
    """Give an array its line in mdadm.conf; ``forget``: take it away."""

    entry: Entry
    consequence: str
    forget: bool = False

    @property
    def shown(self) -> str:
        return f"mdadm.conf: {'remove' if self.forget else 'add'} `{self.entry}`"


@dataclass(frozen=True)
class Attribute:
    """Write a file of an array in sysfs."""

    device: str
    name: str
    value: str
    consequence: str

    @property
    def shown(self) -> str:
        return f"echo {self.value} > /sys/block/{self.device}/md/{self.name}"


@dataclass(frozen=True)
class Writable:
    """End an array's waiting for its first write; nothing where it does not wait."""

    path: str
    consequence: str = "a spare rebuilds at once, not only after the first write; nothing if it is writable"

    @property
    def shown(self) -> str:
        return f"mdadm --readwrite {shlex.quote(self.path)}"


Step = Command | Remember | Attribute | Writable


def wipe(disks: Sequence[Disk]) -> list[Step]:
    """Take the signatures off the disks that carry one."""
    steps: list[Step] = []
    for disk in disks:
        if disk.signatures:
            lost = (
                f"{', '.join(disk.signatures)} on {disk.path} can no longer be found: what is there is lost"
            )
            steps.append(Command(("wipefs", "--all", disk.path), lost))
        if disk.metadata_at is not None:
            zeroes = (*("blkdiscard", "--zeroout", "--force"), f"--offset={disk.metadata_at}")
            length = f"--length={SUPERBLOCKS_BYTES}"
            steps.append(
                Command((*zeroes, length, disk.path), f"the resource on {disk.path} can no longer be opened")
            )
    return steps


def create(
    name: str,
    shape: Geometry,
    disks: Sequence[Disk],
    *,
    chunk_bytes: int,
    bitmap_bytes: int = 0,
    spares: Sequence[Disk] = (),
    group: str | None = None,
    uuid: str,
) -> list[Step]:
    """Make an array of ``disks``, with a write-intent bitmap, and have it assembled at boot by its name.

    ``chunk_bytes`` 0: the level has none; ``bitmap_bytes``, what a bit of the bitmap stands for, 0: mdadm's
    choice.
    """
    path = f"/dev/md/{name}"
    chunk = (f"--chunk={chunk_bytes >> 10}K",) if chunk_bytes else ()
    layout = (f"--layout={shape.layout}",) if shape.layout else ()
    arguments = (
        *("mdadm", "--create", path, "--run", "--metadata=1.2", f"--name={name}", f"--uuid={uuid}"),
        *(f"--level={shape.level.removeprefix('raid')}", *layout, *chunk),
        *(f"--raid-devices={shape.slots}", f"--spare-devices={len(spares)}", "--bitmap=internal"),
        *((f"--bitmap-chunk={bitmap_bytes >> 10}K",) if bitmap_bytes else ()),
        *(disk.path for disk in [*disks, *spares]),
    )
    return [
        *wipe([*disks, *spares]),
        Command(arguments, f"all data on {', '.join(disk.path for disk in [*disks, *spares])} is lost"),
        Remember(Entry(path, uuid, group), f"it is {path} after each boot; then: {INITRAMFS}"),
        Writable(path, "its copies are made equal at once, not only after the first write"),
    ]


def add_spares(array: Array, disks: Sequence[Disk], use: str = "") -> list[Step]:
    """Make ``disks`` spares of ``array``; ``use``, in words: what for."""
    paths = tuple(disk.path for disk in disks)
    use = use or (
        "it rebuilds onto one at once" if array.empty_slots else "it is held ready until a member fails"
    )
    steps: list[Step] = [
        *wipe(disks),
        Command(
            ("mdadm", array.path, "--add-spare", *paths), f"all data on {', '.join(paths)} is lost; {use}"
        ),
    ]
    return [*steps, *_writable(array)]


def _writable(array: Array) -> list[Step]:
    return [Writable(array.path)] if array.state == "read-auto" else []


def remove_spare(array: Array, device: str) -> list[Step]:
    """Take a spare, or a member that failed, out of ``array``."""
    path = f"/dev/{device}"
    left = len([member for member in array.having(Part.SPARE) if member.device != device])
    return [
        Command(("mdadm", array.path, "--remove", device), f"{array.name} has {left} spares left"),
        Command(("mdadm", "--zero-superblock", path), f"{path} is free"),
    ]


def move_spare(giver: Array, taker: Array, device: str) -> list[Step]:
    """Give a spare of one array to another."""
    path = f"/dev/{device}"
    left = len(giver.having(Part.SPARE)) - 1
    return [
        Command(("mdadm", giver.path, "--remove", device), f"{giver.name} has {left} spares left"),
        Command(("mdadm", taker.path, "--add-spare", path), f"{taker.name} rebuilds onto {device}"),
        *_writable(taker),
    ]


def replace(array: Array, device: str, spare: str, added: Disk | None = None) -> list[Step]:
    """Copy a member onto a spare while it still serves; then it counts as failed. ``added``: the spare, where
    it is not in the array yet.
    """
    return [
        *(add_spares(array, [added]) if added is not None else _writable(array)),
        Command(
            ("mdadm", array.path, "--replace", f"/dev/{device}", "--with", f"/dev/{spare}"),
            f"{device} is copied onto {spare} and serves until that is done; redundancy is never less",
        ),
    ]


def remove_faulty(array: Array, device: str) -> list[Step]:
    """Take a member out that counts as failed."""
    return [Command(("mdadm", array.path, "--remove", device), f"{device} can be taken out of the machine")]


def re_add(array: Array, device: str) -> list[Step]:
    """Take a member back that was away: only what changed meanwhile is copied, as the bitmap has it."""
    path = f"/dev/{device}"
    steps: list[Step] = []
    if array.member(device) is not None:
        steps.append(
            Command(("mdadm", array.path, "--remove", device), f"{device} is taken out, to come back")
        )
    steps.append(
        Command(
            ("mdadm", array.path, "--re-add", path), "only what changed while it was away is copied to it"
        )
    )
    return [*steps, *_writable(array)]


def grow(array: Array, disks: Sequence[Disk]) -> list[Step]:
    """Add members: data is spread anew while the array is in use."""
    slots = array.geometry.slots + len(disks)
    larger = Geometry(
        array.geometry.level, slots, array.geometry.near, array.geometry.far, array.geometry.offset
    )
    size = capacity(larger, array.component_bytes, array.chunk_bytes)
    return [
        *add_spares(array, disks, "for the next step"),
        Command(
            ("mdadm", "--grow", array.path, f"--raid-devices={slots}"),
            f"from {array.geometry.slots} to {slots} members, from {format_size(array.size_bytes)} to "
            f"{format_size(size)}; there is no way back, and it takes as long as reading and writing it all",
        ),
    ]


def grow_size(array: Array) -> list[Step]:
    """Use what members have more than the array takes of them, after all were replaced by larger ones."""
    return [
        Command(
            ("mdadm", "--grow", array.path, "--size=max"),
            f"it takes as much of each member as the smallest has, now {format_size(array.component_bytes)}; "
            "the new part is resynced",
        )
    ]


def stop(array: Array) -> list[Step]:
    """End an array; the data stays."""
    return [
        Command(
            ("mdadm", "--stop", array.path),
            f"{array.path} is gone until `mdadm --assemble {array.path}` or the next boot; the data stays",
        )
    ]


def delete(array: Array) -> list[Step]:
    """End an array for good."""
    members = tuple(f"/dev/{member.device}" for member in array.members)
    return [
        Command(("mdadm", "--stop", array.path), f"{array.path} is gone"),
        Command(
            ("mdadm", "--zero-superblock", *members),
            f"the data of {array.name} ({format_size(array.size_bytes)}) is lost; the members are free",
        ),
        Remember(
            _entry(array, array.group),
            f"it is not assembled at boot any more; then: {INITRAMFS}",
            forget=True,
        ),
    ]


def scrub(array: Array, *, start: bool) -> list[Step]:
    """Begin or end reading all copies and comparing them; only what cannot be read is written anew."""
    if start:
        return [
            *_writable(array),
            Attribute(
                array.device,
                "sync_action",
                "check",
                "all members are read and compared; sectors that cannot be read are written anew from a copy",
            ),
        ]
    return [Attribute(array.device, "sync_action", "idle", "the scrub ends where it is")]


def _entry(array: Array, group: str | None) -> Entry:
    return Entry(array.path, array.uuid, group, array.metadata)


def share(array: Array, group: str | None) -> list[Step]:
    """Make ``array`` one of a spare group, or of none."""
    told = (
        f"spares of the group {group} serve it, and its spares them" if group else "its spares serve it alone"
    )
    return [Remember(_entry(array, group), told)]
