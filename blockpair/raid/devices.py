"""Looks at devices that shall become members: size, the disks below, who uses them, what they carry."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blockpair import signature
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid.model import Disk
from blockpair.raid.sysfs import enclosure_of, speed_of

_SYSFS = Path("/sys/dev/block")
_SECTOR = 512
_DEEPEST = 8


def look(path: str) -> Disk:
    """What ``path`` is, as a possible member; the device is only read. Raises `BlockpairError` if it is no
    block device or cannot be looked at.
    """
    node = Path(path)
    folder = sysfs_folder(node)
    whole = _whole(folder)
    return Disk(
        path=path,
        name=folder.name,
        size_bytes=_number(folder / "size") * _SECTOR,
        disks=frozenset(physical(folder)),
        speed=speed_of(whole),
        enclosure=enclosure_of(whole),
        uses=tuple(signature.uses(node)),
        signatures=tuple(str(found) for found in signature.signatures(node)),
        read_only=_text(folder / "ro") == "1",
    )


def member_disk(name: str) -> Disk | None:
    """A member of a running array, to compare others with; None if it has gone."""
    try:
        folder = sysfs_folder(Path("/dev") / name)
    except BlockpairError:
        return None
    return Disk(f"/dev/{name}", name, _number(folder / "size") * _SECTOR, frozenset(physical(folder)))


def sysfs_folder(path: Path) -> Path:
    """The directory of a block device in sysfs; its name is the kernel's. Raises `BlockpairError`."""
    try:
        status = path.stat()
    except OSError as error:
        raise BlockpairError(
            ErrorKind.NOT_FOUND, f"{path}: {error.strerror}", "the devices of this node: lsblk"
        ) from None
    if not stat.S_ISBLK(status.st_mode):
        raise BlockpairError(
            ErrorKind.INVALID, f"{path} is not a block device", "the devices of this node: lsblk"
        )
    return (_SYSFS / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}").resolve()


def physical(folder: Path, depth: int = 0) -> set[str]:
    """Names of the physical disks below a device: through partitions, device mapper, md and loop devices. Two
    paths to one disk have one name where the disk tells its own (WWN or serial number).
    """
    whole = _whole(folder)
    below = sorted((folder / "slaves").glob("*")) or sorted((whole / "slaves").glob("*"))
    if below and depth < _DEEPEST:
        return {name for entry in below for name in physical(entry.resolve(), depth + 1)}
    backing = _text(whole / "loop/backing_file")
    if backing and depth < _DEEPEST:
        under = _under_file(Path(backing))
        return physical(under, depth + 1) if under is not None else {f"file {backing}"}
    for attribute in ("wwid", "device/wwid", "device/serial"):
        identity = _text(whole / attribute)
        if identity:
            return {identity}
    return {whole.name}


def _under_file(path: Path) -> Path | None:
    """The device of the file system that a file is on; None where it is on none, such as a tmpfs."""
    try:
        number = path.stat().st_dev
    except OSError:
        return None
    folder = _SYSFS / f"{os.major(number)}:{os.minor(number)}"
    return folder.resolve() if folder.exists() else None


def _whole(folder: Path) -> Path:
    return folder.parent if (folder / "partition").exists() else folder


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0
