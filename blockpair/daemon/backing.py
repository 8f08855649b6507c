"""What is at the place of a resource's device: whether it is there, whether it changed, which one it is."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from blockpair.config.resource import ResourceConfig
from blockpair.errors import BlockpairError, ErrorKind

_SYSFS = Path("/sys/dev/block")
# What names a device over a restart of the machine, the most telling first, below its folder in sysfs.
_NAMES = ("dm/uuid", "md/uuid", "wwid", "device/wwid", "device/serial", "serial")


@dataclass(frozen=True)
class Backing:
    """``there``: it can be asked for its size, and has one; ``look``: what is another after a change that may
    let a start succeed; ``identity``: what makes it the same device or file as at another time, None where
    nothing tells.
    """

    there: bool
    look: str
    identity: str | None


_ABSENT = Backing(there=False, look="", identity=None)


def look_at(path: Path) -> Backing:
    """What is at ``path`` now; the device itself is not opened."""
    try:
        found = path.stat()
    except OSError:
        return _ABSENT
    if stat.S_ISBLK(found.st_mode):
        return look_at_device(_SYSFS / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    look = f"{found.st_dev}:{found.st_ino}:{found.st_size}"
    return Backing(found.st_size > 0, look, f"file {found.st_ino}")


def look_at_device(folder: Path) -> Backing:
    """The same of a block device by its ``folder`` in sysfs."""
    size = _attribute(folder / "size")
    return Backing(size not in (None, "0"), f"{folder.name}:{size}", _identity(folder))


def another(config: ResourceConfig, known: str | None, found: str | None) -> BlockpairError | None:
    """Why a resource whose disk was ``known`` when it was up last is not started by itself on the one that is
    ``found`` in its place: its metadata, if they are elsewhere, say that the data of the former one are here.
    None where nothing tells the two apart.
    """
    if None in (known, found) or known == found:
        return None
    return BlockpairError(
        ErrorKind.MISMATCH,
        f"{config.device} is not what it was when {config.name} was up ({known}, and now {found})",
        f"bring the former one back; if its data were moved to this one: `blockpair up {config.name}`;"
        f" otherwise begin this copy anew: `blockpair create {config.name} --anew`",
    )


def _identity(folder: Path) -> str | None:
    partition = _attribute(folder / "partition")
    if partition is not None:
        whole = _identity(folder.resolve().parent)
        return None if whole is None else f"{whole}, partition {partition}"
    for name in _NAMES:
        value = _attribute(folder / name)
        if value is not None:
            return f"{name.rpartition('/')[2]} {value}"
    file = _attribute(folder / "loop/backing_file")
    if file is None:
        return None
    try:
        return f"loop of file {Path(file).stat().st_ino}"
    except OSError:
        return None


def _attribute(file: Path) -> str | None:
    """What it says; None where it says nothing."""
    try:
        return " ".join(file.read_text(errors="replace").split()) or None
    except OSError:
        return None
