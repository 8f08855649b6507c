"""Looks at devices that shall become members: size, the disks below, who uses them, what they carry."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

from blockpair import signature
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid.model import Disk
from blockpair.raid.steps import SUPERBLOCKS_BYTES
from blockpair.raid.sysfs import attribute_number, attribute_text, enclosure_of, speed_of

_SYSFS = Path("/sys/dev/block")
_SECTOR = 512
_PAGE = 4096
_MAGIC = b"blkpair\0"
_DEEPEST = 8


def look(path: str, resources: Path | None = None) -> Disk:
    """What ``path`` is, as a possible member; the device is only read. ``resources``: the directory of this
    node's resource files, whose devices are in use even while they are down. Raises `BlockpairError` if it is
    no block device or cannot be looked at.
    """
    node = Path(path)
    folder = sysfs_folder(node)
    whole = _whole(folder)
    size_bytes = attribute_number(folder / "size") * _SECTOR
    own = [f"the device of the resource {name}" for name in resources_on(node, resources)]
    metadata_at = own_metadata(node, size_bytes)
    metadata = [] if metadata_at is None else ["the metadata of a blockpair resource"]
    return Disk(
        path=path,
        name=folder.name,
        size_bytes=size_bytes,
        disks=frozenset(physical(folder)),
        speed=speed_of(whole),
        enclosure=enclosure_of(whole),
        uses=(*own, *signature.uses(node)),
        signatures=(*metadata, *(str(found) for found in signature.signatures(node))),
        read_only=attribute_text(folder / "ro") == "1",
        metadata_at=metadata_at,
    )


def resources_on(path: Path, resources: Path | None) -> list[str]:
    """The resources of this node that have the block device ``path``, up or down."""
    number = _device_number(path)
    if resources is None or number is None:
        return []
    return [
        name
        for name, places in _resources(resources)
        if any(_device_number(Path(place)) == number for place in places)
    ]


def arrays_below(path: Path) -> frozenset[str]:
    """The kernel's names of the md arrays that a device or a file is on: through partitions, device mapper,
    loop devices and file systems.
    """
    number = _device_number(path)
    if number is not None:
        return frozenset(_arrays(_folder(number)))
    under = _under_file(path)
    return frozenset() if under is None else frozenset(_arrays(under))


def place_on(path: Path, array: str) -> int | None:
    """Where a device that is the array of that kernel name, or a partition of it, begins on it, in bytes;
    None for any other.
    """
    number = _device_number(path)
    if number is None:
        return None
    folder = _folder(number)
    if _whole(folder).name != array:
        return None
    return attribute_number(folder / "start") * _SECTOR


def _arrays(folder: Path, depth: int = 0) -> Iterator[str]:
    whole = _whole(folder)
    if (whole / "md").is_dir():
        yield whole.name
    if depth >= _DEEPEST:
        return
    for below in {*(folder / "slaves").glob("*"), *(whole / "slaves").glob("*")}:
        yield from _arrays(below.resolve(), depth + 1)
    backing = attribute_text(whole / "loop/backing_file")
    under = _under_file(Path(backing)) if backing else None
    if under is not None:
        yield from _arrays(under, depth + 1)


def resources_above(array: str, resources: Path) -> list[str]:
    """The resources of this node, up or down, that have the array of that kernel name below them."""
    return sorted(
        name
        for name, places in _resources(resources)
        if any(array in arrays_below(Path(place)) for place in places)
    )


def lost_by_growth(array: str, resources: Path) -> list[str]:
    """The resources of this node, up or down, whose metadata are looked for at the end of the array of that
    kernel name itself: on a larger one they are not there.
    """
    found = []
    for name, (device, metadata) in _places(resources):
        number = _device_number(Path(device if metadata == "internal" else metadata))
        if number is not None and _folder(number).name == array:
            found.append(name)
    return found


def _resources(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each resource with the devices and files that it is on."""
    for name, places in _places(folder):
        yield name, [place for place in places if place.startswith("/")]


def _places(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each resource with what its file says of device and metadata."""
    for file in sorted(folder.glob("*.toml")):
        try:
            content = tomllib.loads(file.read_text())
        except (OSError, ValueError):
            continue
        yield file.stem, (str(content.get("device", "")), str(content.get("metadata", "")))


def _folder(number: int) -> Path:
    return (_SYSFS / f"{os.major(number)}:{os.minor(number)}").resolve()


def _device_number(path: Path) -> int | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def own_metadata(path: Path, size_bytes: int) -> int | None:
    """Where the superblocks of a resource are, in bytes: the last two pages (`engine/src/meta/layout.rs`).
    None where neither is one.
    """
    start = size_bytes // _PAGE * _PAGE - SUPERBLOCKS_BYTES
    if start < 0:
        return None
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            pages = stream.read(SUPERBLOCKS_BYTES)
    except OSError:
        return None
    return start if any(pages[at : at + len(_MAGIC)] == _MAGIC for at in (0, _PAGE)) else None


def member_disk(name: str) -> Disk | None:
    """A member of a running array, to compare others with; None if it has gone."""
    try:
        folder = sysfs_folder(Path("/dev") / name)
    except BlockpairError:
        return None
    return Disk(
        f"/dev/{name}", name, attribute_number(folder / "size") * _SECTOR, frozenset(physical(folder))
    )


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
    return _folder(status.st_rdev)


def physical(folder: Path, depth: int = 0) -> set[str]:
    """Names of the physical disks below a device: through partitions, device mapper, md and loop devices. Two
    paths to one disk have one name where the disk tells its own (WWN or serial number).
    """
    whole = _whole(folder)
    below = sorted((folder / "slaves").glob("*")) or sorted((whole / "slaves").glob("*"))
    if below and depth < _DEEPEST:
        return {name for entry in below for name in physical(entry.resolve(), depth + 1)}
    backing = attribute_text(whole / "loop/backing_file")
    if backing and depth < _DEEPEST:
        under = _under_file(Path(backing))
        return physical(under, depth + 1) if under is not None else {f"file {backing}"}
    for attribute in ("wwid", "device/wwid", "device/serial"):
        identity = attribute_text(whole / attribute)
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
