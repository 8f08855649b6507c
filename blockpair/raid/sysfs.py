"""Reads arrays from sysfs, as the kernel's Documentation/admin-guide/md.rst describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blockpair.raid.latency import Ticks, parse_stat
from blockpair.raid.layout import LEVELS, from_md
from blockpair.raid.model import Array, Member, Speed, Sync

BLOCK = Path("/sys/block")
_SECTOR = 512


@dataclass(frozen=True)
class Identity:
    """What sysfs does not tell of an array: mdadm knows it from the superblocks."""

    uuid: str
    name: str


@dataclass(frozen=True)
class Place:
    """The hardware below a member."""

    speed: Speed = Speed.UNKNOWN
    enclosure: str | None = None


def array_names(block: Path = BLOCK) -> list[str]:
    """The kernel's names of all arrays, also of those that do not run."""
    return sorted(entry.name for entry in block.glob("md*") if (entry / "md").is_dir())


def idle_devices(block: Path = Path("/sys/class/block")) -> list[str]:
    """Disks and partitions that nothing is built on: those that may be a member that came back."""
    return sorted(
        entry.name
        for entry in block.glob("*")
        if not entry.name.startswith(("md", "ram", "zram"))
        and attribute_number(entry / "size")
        and not any((entry / "holders").glob("*"))
    )


def state(name: str, block: Path = BLOCK) -> str:
    """An array's ``array_state``; empty where there is none."""
    return attribute_text(block / name / "md/array_state")


def running(name: str, block: Path = BLOCK) -> bool:
    """Whether the array of that kernel name is assembled and started."""
    return state(name, block) not in ("", "clear", "inactive")


def read_array(
    name: str,
    identity: Identity,
    *,
    group: str | None = None,
    place_of: Callable[[str], Place] = lambda _: Place(),
    block: Path = BLOCK,
) -> Array | None:
    """The array of that kernel name as it is now; None if it has gone, has no level yet, or one that is not
    known here (a container of another metadata format).

    It is read file by file: what changes meanwhile may be seen half.
    """
    folder = block / name / "md"
    level = attribute_text(folder / "level")
    slots = attribute_number(folder / "raid_disks")
    if level not in LEVELS or not slots:
        return None
    return Array(
        device=name,
        name=identity.name,
        uuid=identity.uuid,
        geometry=from_md(level, slots, attribute_number(folder / "layout")),
        size_bytes=attribute_number(block / name / "size") * _SECTOR,
        component_bytes=attribute_number(folder / "component_size") << 10,
        chunk_bytes=attribute_number(folder / "chunk_size"),
        state=attribute_text(folder / "array_state"),
        members=tuple(
            member
            for entry in sorted(folder.glob("dev-*"))
            if (member := read_member(entry, place_of)) is not None
        ),
        sync=_sync(folder),
        mismatch_bytes=attribute_number(folder / "mismatch_cnt") * _SECTOR,
        bitmap=attribute_text(folder / "bitmap/location") not in ("", "none"),
        unequal=attribute_text(folder / "resync_start") not in ("", "none"),
        group=group,
        metadata=attribute_text(folder / "metadata_version") or "1.2",
    )


def read_member(folder: Path, place_of: Callable[[str], Place]) -> Member | None:
    """A member from its directory ``dev-NAME``; None for one that is being taken out at this moment: it has
    no state any more, while its directory is still there.
    """
    device = folder.name.removeprefix("dev-")
    flags = frozenset(word.strip() for word in attribute_text(folder / "state").split(",") if word.strip())
    if not flags:
        return None
    slot = attribute_text(folder / "slot")
    place = place_of(device)
    return Member(
        device=device,
        slot=int(slot) if slot.isdigit() else None,
        flags=flags,
        errors=attribute_number(folder / "errors"),
        size_bytes=attribute_number(folder / "size") << 10,
        speed=place.speed,
        enclosure=place.enclosure,
    )


def _sync(folder: Path) -> Sync | None:
    """None while nothing is synced. ``sync_completed`` is ``DONE / TOTAL`` in sectors, or a word."""
    action = attribute_text(folder / "sync_action")
    if action in ("", "idle", "frozen"):
        return None
    done, separator, total = attribute_text(folder / "sync_completed").partition("/")
    numbers = (done.strip(), total.strip())
    if not separator or not all(number.isdigit() for number in numbers):
        return Sync(action, 0, 0, 0)
    return Sync(
        action,
        int(numbers[0]) * _SECTOR,
        int(numbers[1]) * _SECTOR,
        attribute_number(folder / "sync_speed") << 10,
    )


def write_attribute(device: str, attribute: str, value: str, block: Path = BLOCK) -> None:
    """Write ``md/ATTRIBUTE`` of an array. Raises `OSError`."""
    (block / device / "md" / attribute).write_text(value)


@dataclass(frozen=True)
class SpeedLimit:
    """How fast an array may be synced, in KiB a second of each member; ``local``: it was set for this array,
    otherwise it is the whole system's.
    """

    kib: int
    local: bool


def speed_limit(device: str, attribute: str, block: Path = BLOCK) -> SpeedLimit | None:
    """``sync_speed_min`` or ``sync_speed_max`` of an array: ``200000 (system)``; None if it has gone."""
    number, _, whose = attribute_text(block / device / "md" / attribute).partition(" ")
    return SpeedLimit(int(number), whose == "(local)") if number.isdigit() else None


def system_speed_max(file: Path = Path("/proc/sys/dev/raid/speed_limit_max")) -> int | None:
    """The whole system's ``sync_speed_max``, in KiB a second; None before md is there."""
    return attribute_number(file) or None


def place_of(device: str, block: Path = BLOCK) -> Place:
    """What is known of the disk below ``device``, a disk or a partition."""
    real = Path("/sys/class/block") / device if block is BLOCK else block / device
    try:
        folder = real.resolve(strict=True)
    except OSError:
        return Place()
    if (folder / "partition").exists():
        folder = folder.parent
    return Place(speed_of(folder), enclosure_of(folder))


def places(device: str, links: Path = Path("/dev/disk/by-path")) -> list[str]:
    """The names of the place that a whole disk is plugged in at, as udev has them, and its path; none for a
    partition.
    """
    if whole_disk(device) != device:
        return []
    try:
        found = sorted(link.name for link in links.iterdir() if link.resolve().name == device)
    except OSError:
        found = []
    return [*found, f"/dev/{device}"]


def whole_disk(device: str, block: Path = Path("/sys/class/block")) -> str:
    """The disk that a partition is of; a disk itself."""
    folder = (block / device).resolve()
    return folder.parent.name if (folder / "partition").exists() else device


def speed_of(folder: Path) -> Speed:
    """The class of a whole disk, from its directory in sysfs."""
    if folder.name.startswith("nvme"):
        return Speed.NVME
    match attribute_text(folder / "queue/rotational"):
        case "1":
            return Speed.ROTATIONAL
        case "0":
            return Speed.SSD
        case _:
            return Speed.UNKNOWN


def enclosure_of(folder: Path) -> str | None:
    """The enclosure that a disk sits in (SES), by the kernel's address of it."""
    for link in sorted((folder / "device").glob("enclosure_device:*")):
        return link.resolve().parent.name
    return None


def ticks(device: str, block: Path = Path("/sys/class/block")) -> Ticks | None:
    """The counters of I/O of a block device now; None if it has gone."""
    return parse_stat(attribute_text(block / device / "stat"))


def attribute_text(path: Path) -> str:
    """A small kernel file; empty where it is not there, or cannot be read at this moment."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def attribute_number(path: Path) -> int:
    """The number that a small kernel file begins with; 0 where there is none."""
    words = attribute_text(path).split()
    return int(words[0]) if words and words[0].isdigit() else 0
