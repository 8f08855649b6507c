"""Does a device carry somebody's data? Foreign signatures (libblkid, by way of ``wipefs``) and uses by this
system.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from blockpair.errors import BlockpairError, ErrorKind

_PROBE_SECONDS = 60


@dataclass(frozen=True)
class Signature:
    """Something libblkid recognised: a file system, a RAID or LVM member, a partition table, …"""

    kind: str
    offset: int
    label: str | None = None
    uuid: str | None = None

    def __str__(self) -> str:
        name = f" '{self.label}'" if self.label else ""
        uuid = f", UUID {self.uuid}" if self.uuid else ""
        return f"{self.kind}{name} (at byte {self.offset}{uuid})"


class _Entry(msgspec.Struct):
    type: str
    offset: str
    label: str | None = None
    uuid: str | None = None


class _Output(msgspec.Struct):
    signatures: list[_Entry] = []


def parse_signatures(text: bytes) -> list[Signature]:
    """The signatures in the output of ``wipefs --json``; none for an empty one. Raises `ValueError`."""
    if not text.strip():
        return []
    try:
        output = msgspec.json.decode(text, type=_Output)
        return [Signature(e.type, int(e.offset, 0), e.label, e.uuid) for e in output.signatures]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"wipefs printed something unexpected: {error}") from None


def signatures(path: Path) -> list[Signature]:
    """What libblkid recognises on a device or file, which is only read. Raises `BlockpairError` if it cannot
    tell.
    """
    # /sbin is not in everybody's PATH.
    program = shutil.which("wipefs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise BlockpairError(
            ErrorKind.FAILED,
            f"cannot tell whether {path} carries data: there is no wipefs",
            "install util-linux, or use --force if you are sure that the device is free",
        )
    # Device nodes may be slow (a disk that spins up, a path that fails over), but not for ever.
    try:
        done = subprocess.run(
            [program, "--no-act", "--json", "--", str(path)],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode != 0:
            raise ValueError(
                done.stderr.decode(errors="replace").strip() or f"wipefs ended with {done.returncode}"
            )
        return parse_signatures(done.stdout)
    except (ValueError, OSError, subprocess.TimeoutExpired) as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"cannot tell whether {path} carries data: {error}",
            "check that the device can be read (`dmesg`)",
        ) from None


def check_free(path: Path, purpose: str, *, force: bool) -> None:
    """Refuse ``path`` (a device or file that exists) if it is in use or, without ``force``, carries a
    signature.

    ``purpose`` is what it would become, for the message. Raises `BlockpairError`; nothing is changed.
    """
    users = uses(path)
    if users:
        raise BlockpairError(
            ErrorKind.IN_USE,
            f"{path} cannot be the {purpose}: it is " + "; ".join(users),
            "unmount it or stop what uses it, or choose another device (`lsblk`)",
        )
    if force:
        return
    found = signatures(path)
    if found:
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{path} cannot be the {purpose}: it carries " + ", ".join(str(entry) for entry in found),
            "choose another device; to keep what is on it and replicate it, or to have it overwritten, "
            "repeat the command with --force",
        )


def uses(path: Path) -> list[str]:
    """In which ways ``path`` is in use by this system, in words; empty when it is free. Raises
    `BlockpairError`.
    """
    from blockpair.kernel_device.holders import holders

    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return [f"the file behind /dev/{loop}" for loop in loops_of(path, Path("/sys/block"))]
        found = [str(holder) for holder in holders(path)]
        if not found and _exclusively_open(path):
            found = ["held exclusively by the kernel or another program"]
        return found
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"{path} cannot be examined: {error.strerror}",
            "check the path, its mode and `dmesg`",
        ) from None


def loops_of(path: Path, block: Path) -> list[str]:
    """The loop devices over a file, from sysfs's directory ``block``."""
    real = str(path.resolve())
    found = []
    for entry in sorted(block.glob("loop*/loop/backing_file")):
        try:
            if entry.read_text().rstrip("\n") == real:
                found.append(entry.parent.parent.name)
        except OSError:  # the loop device went away meanwhile
            continue
    return found


def _exclusively_open(path: Path) -> bool:
    """Whether someone holds the block device O_EXCL, as mounts, md and device mapper do."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    os.close(descriptor)
    return False
