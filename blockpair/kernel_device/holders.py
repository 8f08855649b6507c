"""Who uses a block device: processes, mounts in any mount namespace, swap, and devices built on it.

The functions that take text or plain values are pure; `holders` reads the system and puts them together.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Use(Enum):
    """In which way a device is held."""

    OPEN = "open"  # the device itself
    FILE = "file"  # a file, or the working directory, on a file system mounted from it
    MOUNT = "mount"
    SWAP = "swap"
    DEVICE = "device"  # md, device mapper, loop … on top of it


@dataclass(frozen=True)
class Holder:
    """One user of a device. ``pid`` and ``command`` are None and empty where the kernel itself is the user.

    For a mount, they are those of a process that sees it, if it is not visible to us; ``target`` is the path
    that is open, the mount point, or the name of the device on top.
    """

    use: Use
    target: str
    pid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        process = "" if self.pid is None else f" by {self.command or '?'} (pid {self.pid})"
        match self.use:
            case Use.MOUNT:
                seen = (
                    ""
                    if self.pid is None
                    else f", in the mount namespace of {self.command or '?'} (pid {self.pid})"
                )
                return f"mounted on {self.target}{seen}"
            case Use.SWAP:
                return f"used as swap ({self.target})"
            case Use.DEVICE:
                return f"part of {self.target}"
            case Use.OPEN:
                return f"held open{process} as {self.target}"
            case Use.FILE:
                return f"{self.target} in use{process}"


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: device number, mount point, and the source as it was given to mount."""

    device: tuple[int, int]
    point: str
    source: str


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of a ``/proc/PID/mountinfo``. Lines that are none of the documented form are left out."""
    found = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, source = head.split(" "), tail.split(" ")
        number = re.fullmatch(r"(\d+):(\d+)", fields[2]) if len(fields) >= 6 else None
        if separator and number and len(source) >= 2:
            found.append(Mount((int(number[1]), int(number[2])), unescape(fields[4]), unescape(source[1])))
    return found


def parse_swaps(text: str) -> list[str]:
    """The files and devices of a ``/proc/swaps``."""
    return [unescape(line.split()[0]) for line in text.splitlines()[1:] if line.strip()]


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes (``\\040`` for a space) in the names of its tables."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounts_of(
    mounts: Iterable[Mount],
    devices: Collection[tuple[int, int]],
    device_of: Callable[[str], tuple[int, int] | None],
) -> list[Mount]:
    """The mounts that are of one of ``devices``.

    File systems that span devices (btrfs) show a number of their own, so the source is looked up with
    ``device_of``.
    """
    return [m for m in mounts if m.device in devices or device_of(m.source) in devices]


def use_of(mode: int, rdev: tuple[int, int], dev: tuple[int, int], *, devices: Collection[tuple[int, int]],
           file_systems: Collection[tuple[int, int]]) -> Use | None:  # fmt: skip
    """How an open file, given by its stat fields, holds a device of ``devices``, if it does."""
    if stat.S_ISBLK(mode):
        return Use.OPEN if rdev in devices else None
    return Use.FILE if dev in file_systems else None


def holders(device: Path, ignore_pids: Collection[int] = ()) -> list[Holder]:
    """Who uses a block device or one of its partitions, as far as this process may see; processes first.

    Needs root to see all of them. A use that begins or ends while it looks may be missed or shown.
    Raises `ValueError` where ``device`` is not a block device, `OSError` where it cannot be looked at.
    """
    members, devices = _members(device)
    processes = [pid for pid in _pids() if pid not in ignore_pids]
    mounts, file_systems = _mounts(devices)
    found = list(_open_files(processes, devices, file_systems | devices))
    found += mounts
    found += [
        Holder(Use.SWAP, name)
        for name in parse_swaps(_read(Path("/proc/swaps")))
        if _block_device(name) in devices
    ]
    for folder in members:
        found += [Holder(Use.DEVICE, _built_name(entry)) for entry in _entries(folder / "holders")]
    return found


def mounts_everywhere(device: Path) -> list[Holder]:
    """Where a block device or one of its partitions is mounted, in any mount namespace: the part of `holders`
    that needs no look at open files. Raises as that does.
    """
    return _mounts(_members(device)[1])[0]


def _members(device: Path) -> tuple[dict[Path, tuple[int, int]], set[tuple[int, int]]]:
    """The device and its partitions: their directories in sysfs, and all their numbers."""
    status = device.stat()
    if not stat.S_ISBLK(status.st_mode):
        raise ValueError(f"{device} is not a block device")
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    members = _with_partitions(Path(f"/sys/dev/block/{number[0]}:{number[1]}"))
    return members, {number, *members.values()}


def parse_maps(text: str) -> list[tuple[tuple[int, int], str]]:
    """The device numbers and files that a ``/proc/PID/maps`` shows, each once."""
    found: dict[tuple[tuple[int, int], str], None] = {}
    for line in text.splitlines():
        fields = line.split(None, 5)
        number = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+)", fields[3]) if len(fields) == 6 else None
        if number and fields[5].startswith("/"):
            found[((int(number[1], 16), int(number[2], 16)), fields[5])] = None
    return list(found)


def _with_partitions(sysfs: Path) -> dict[Path, tuple[int, int]]:
    real = sysfs.resolve()
    candidates = [real, *(entry for entry in _entries(real) if (entry / "partition").exists())]
    found = {}
    for folder in candidates:
        major, _, minor = _read(folder / "dev").strip().partition(":")
        if minor:
            found[folder] = (int(major), int(minor))
    return found


def _built_name(entry: Path) -> str:
    name = _read(entry / "dm/name").strip()
    return f"/dev/mapper/{name}" if name else f"/dev/{entry.name}"


def _mounts(devices: Collection[tuple[int, int]]) -> tuple[list[Holder], set[tuple[int, int]]]:
    """The mounts of the devices in all mount namespaces, each once, and their file systems' numbers."""
    found: dict[str, Holder] = {}
    numbers: set[tuple[int, int]] = set()
    seen = set()
    ours = _link(Path("/proc/self/ns/mnt"))
    # Our own namespace first, so that a mount we can see ourselves is not told by way of somebody else.
    for pid in [os.getpid(), *_pids()]:
        namespace = _link(Path(f"/proc/{pid}/ns/mnt"))
        if namespace is None or namespace in seen:
            continue
        seen.add(namespace)
        foreign = namespace != ours
        for mount in mounts_of(
            parse_mountinfo(_read(Path(f"/proc/{pid}/mountinfo"))), devices, _block_device
        ):
            numbers.add(mount.device)
            holder = (
                Holder(Use.MOUNT, mount.point, pid, _command(pid))
                if foreign
                else Holder(Use.MOUNT, mount.point)
            )
            found.setdefault(mount.point, holder)
    return list(found.values()), numbers


def _open_files(
    pids: Iterable[int], devices: Collection[tuple[int, int]], file_systems: Collection[tuple[int, int]]
) -> Iterator[Holder]:
    for pid in pids:
        process = Path(f"/proc/{pid}")
        told = set()
        for link in [*_entries(process / "fd"), process / "cwd", process / "root", process / "exe"]:
            target = _link(link)
            # Sockets, pipes and the like are no paths; they cannot hold a device and need no look.
            if target is None or not target.startswith("/"):
                continue
            try:
                status = link.stat()
            except OSError:
                continue
            rdev = (os.major(status.st_rdev), os.minor(status.st_rdev))
            dev = (os.major(status.st_dev), os.minor(status.st_dev))
            use = use_of(status.st_mode, rdev, dev, devices=devices, file_systems=file_systems)
            if use is not None and (use, target) not in told:
                told.add((use, target))
                yield Holder(use, target, pid, _command(pid))
        # A file that is mapped keeps a file system busy when its descriptor was closed long ago.
        for number, target in parse_maps(_read(process / "maps")):
            if number in file_systems and (Use.FILE, target) not in told:
                told.add((Use.FILE, target))
                yield Holder(Use.FILE, target, pid, _command(pid))


def _pids() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _command(pid: int) -> str:
    words = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    return words[:120] or _read(Path(f"/proc/{pid}/comm")).strip()


def _read(path: Path) -> str:
    """A small kernel file; empty where it is not there or its process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - the text as the kernel gives it, '(deleted)' included
    except OSError:
        return None


def _block_device(name: str) -> tuple[int, int] | None:
    if not name.startswith("/"):
        return None
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return (os.major(status.st_rdev), os.minor(status.st_rdev)) if stat.S_ISBLK(status.st_mode) else None
