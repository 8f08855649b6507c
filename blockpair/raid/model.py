"""What is known of arrays, members and free disks, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from blockpair.raid.layout import Geometry


class Speed(IntEnum):
    """Classes of disks, the slowest first."""

    UNKNOWN = 0
    ROTATIONAL = 1
    SSD = 2
    NVME = 3


@dataclass(frozen=True)
class Disk:
    """A block device as a possible member. ``disks``: the physical disks below it, by a name that two paths
    to the same disk share. ``uses`` and ``signatures``, in words: why it is not free.
    ``metadata_at``: where blockpair's own metadata are on it, in bytes, if they are.
    """

    path: str
    name: str
    size_bytes: int
    disks: frozenset[str]
    speed: Speed = Speed.UNKNOWN
    enclosure: str | None = None
    uses: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    read_only: bool = False
    metadata_at: int | None = None


class Part(StrEnum):
    """What a member is for its array at this moment."""

    ACTIVE = "active"
    REBUILDING = "rebuilding"
    REPLACEMENT = "replacement"
    SPARE = "spare"
    FAULTY = "faulty"
    JOURNAL = "journal"


@dataclass(frozen=True)
class Member:
    """A device of an array. ``flags`` are the words of its state in sysfs; ``errors``: sectors that could
    not be read and were written anew; ``speed`` and ``enclosure`` as a `Disk` has them.
    """

    device: str
    slot: int | None
    flags: frozenset[str]
    errors: int = 0
    size_bytes: int = 0
    speed: Speed = Speed.UNKNOWN
    enclosure: str | None = None

    @property
    def part(self) -> Part:
        if "faulty" in self.flags:
            return Part.FAULTY
        if "journal" in self.flags:
            return Part.JOURNAL
        if "in_sync" in self.flags:
            return Part.ACTIVE
        if "replacement" in self.flags and self.slot is not None:
            return Part.REPLACEMENT
        return Part.SPARE if self.slot is None else Part.REBUILDING

    @property
    def leaving(self) -> bool:
        """Whether it is being replaced while it still serves."""
        return "want_replacement" in self.flags and "faulty" not in self.flags


@dataclass(frozen=True)
class Sync:
    """What md's sync thread does: resync, recover, check, repair or reshape. Bytes are of each member."""

    action: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: int

    @property
    def fraction(self) -> float:
        return self.done_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """None while it does not move."""
        if self.bytes_per_second <= 0:
            return None
        return max(0, self.total_bytes - self.done_bytes) / self.bytes_per_second


@dataclass(frozen=True)
class Array:
    """An md array. ``device`` is the kernel's name (md127), ``name`` the stable one below /dev/md, or the
    kernel's where it has none. ``state`` is sysfs's array_state; ``mismatch_bytes``: found by the last check;
    ``unequal``: its copies were never, or after a crash not yet, made equal; ``metadata``: the version of
    its superblocks.
    """

    device: str
    name: str
    uuid: str
    geometry: Geometry
    size_bytes: int
    component_bytes: int
    chunk_bytes: int
    state: str
    members: tuple[Member, ...]
    sync: Sync | None = None
    mismatch_bytes: int = 0
    bitmap: bool = False
    unequal: bool = False
    group: str | None = None
    metadata: str = "1.2"

    @property
    def path(self) -> str:
        """Where its device is."""
        return f"/dev/{self.device}" if self.name == self.device else f"/dev/md/{self.name}"

    @property
    def failed_slots(self) -> frozenset[int]:
        """The slots whose data no member has in full; a slot that is still being filled is one of them."""
        served = {member.slot for member in self.members if member.part is Part.ACTIVE}
        return frozenset(slot for slot in range(self.geometry.slots) if slot not in served)

    @property
    def empty_slots(self) -> frozenset[int]:
        """The slots that nobody has, nor is being made to have."""
        taken = {member.slot for member in self.members if member.part in (Part.ACTIVE, Part.REBUILDING)}
        return frozenset(slot for slot in range(self.geometry.slots) if slot not in taken)

    @property
    def active(self) -> bool:
        """Whether it runs at all."""
        return self.state not in ("clear", "inactive", "broken", "")

    def having(self, *parts: Part) -> tuple[Member, ...]:
        """The members that are one of ``parts``."""
        return tuple(member for member in self.members if member.part in parts)

    def member(self, device: str) -> Member | None:
        """The member of that kernel name."""
        return next((member for member in self.members if member.device == device), None)
