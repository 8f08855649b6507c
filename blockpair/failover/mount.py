"""Checks, mounts and unmounts a file system by util-linux and e2fsprogs; frees a mount from who holds it.

Never a lazy unmount: a file system that is out of sight and still written to is what a second node must
never meet.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from blockpair.config.service import Service
from blockpair.failover import file_system
from blockpair.failover.commands import run
from blockpair.failover.plan import FileSystemState, MountState
from blockpair.kernel_device.holders import Holder, Use, holders, mounts_everywhere, parse_mountinfo

# ext4's and xfs's own: no further write, and the journal is not flushed (include/uapi/linux/ext4.h,
# xfs_fs.h).
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
# e2fsck(8): errors were corrected; a reboot is wanted, which is for a file system that is mounted.
_CORRECTED, _REBOOT = 1, 2
_ENDING_SECONDS = 5.0


class MountError(Exception):
    """What cannot be mounted, checked or unmounted, and why."""


def state(point: Path, device: Path | None) -> MountState:
    """What is mounted at ``point``, as this process sees it. Raises `OSError`."""
    mounts = [
        mount
        for mount in parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="replace"))
        if mount.point == str(point)
    ]
    if not mounts:
        return MountState.ABSENT
    # The last one is on top.
    return MountState.MOUNTED if mounts[-1].device == _number(device) else MountState.FOREIGN


def left_as(service: Service, device: Path) -> FileSystemState:
    """How the file system on ``device`` was left; UNKNOWN where it cannot be read. Blocks as the device
    does.
    """
    try:
        with device.open("rb") as stream:
            return file_system.state_of(service.file_system, stream.read(file_system.SUPERBLOCK_BYTES))
    except OSError:
        return FileSystemState.UNKNOWN


async def check(service: Service, device: Path) -> None:
    """Make sure that it may be mounted, with repairs that lose nothing (e2fsck -p). Raises `MountError`."""
    found = await asyncio.to_thread(left_as, service, device)
    if found is FileSystemState.UNKNOWN:
        raise MountError(f"no {service.file_system} file system begins on {device}")
    # xfs: mounting replays the log, and a repair is a person's decision (xfs_repair would have to drop it).
    if service.file_system == "xfs" or found is not FileSystemState.UNCLEAN:
        return
    done = await run("fsck.ext4", "-p", str(device))
    if done.code & ~(_CORRECTED | _REBOOT):
        raise MountError(
            f"the file system on {device} has errors that only a person may decide on: {done.reason};"
            f" look with `e2fsck -n {device}`, and repair it with `e2fsck {device}`"
        )


async def mount(service: Service, device: Path) -> None:
    """Mount it; mounted already is fine. Raises `MountError`."""
    point = _point(service)
    match state(point, device):
        case MountState.MOUNTED:
            return
        case MountState.FOREIGN:
            raise MountError(f"something else is mounted on {point}")
        case MountState.ABSENT:
            pass
    if not point.is_dir():
        raise MountError(f"the mount point {point} is not there; make the directory")
    options = ["-o", ",".join(service.options)] if service.options else []
    done = await run("mount", "-t", service.file_system, *options, "--", str(device), str(point))
    if done.code:
        raise MountError(f"{device} cannot be mounted on {point}: {done.reason}")
    if state(point, device) is not MountState.MOUNTED:
        raise MountError(f"{device} was mounted on {point}, and is not there: something was mounted over it")


async def unmount(service: Service, device: Path | None) -> None:
    """Unmount it; not mounted is fine, and what else is mounted there stays. Raises `MountError` that
    names who holds it, whatever mount namespace they are in.
    """
    point = _point(service)
    if device is None:
        return
    if state(point, device) is MountState.MOUNTED:
        done = await run("umount", "--", str(point))
        if done.code:
            raise MountError(_held(f"{point} cannot be unmounted: {done.reason}", await users(device)))
    if elsewhere := await _mounts(device):
        raise MountError(_held(f"the file system of {point} is mounted elsewhere too", elsewhere))


async def users(device: Path) -> list[Holder]:
    """Who uses the file system on ``device``: processes, and mounts in any namespace."""
    try:
        found = await asyncio.to_thread(holders, device, (os.getpid(),))
    except (OSError, ValueError):
        return []
    return [holder for holder in found if holder.use in (Use.FILE, Use.MOUNT)]


async def _mounts(device: Path) -> list[Holder]:
    try:
        return await asyncio.to_thread(mounts_everywhere, device)
    except (OSError, ValueError):
        return []


async def end_users(service: Service, device: Path | None, number: signal.Signals) -> None:
    """Send a signal to the processes that use it and wait until they are gone; unmount it in other mount
    namespaces. Then as `unmount`. Raises `MountError`.
    """
    if device is not None:
        found = await users(device)
        pids = {user.pid for user in found if user.use is Use.FILE and user.pid not in (None, 1)}
        await asyncio.to_thread(_end, [pid for pid in pids if pid is not None], number)
        for user in found:
            if user.use is Use.MOUNT:
                there = [] if user.pid is None else ["nsenter", f"--mount=/proc/{user.pid}/ns/mnt", "--"]
                await run(*there, "umount", "--", user.target)
    await unmount(service, device)


async def shut_down(service: Service, device: Path | None) -> None:
    """Let everything in the file system fail from now on, its journal unflushed; then kill and unmount.

    Raises `MountError`.
    """
    point = _point(service)
    if state(point, device) is MountState.MOUNTED:
        try:
            await asyncio.to_thread(_shut_down, point)
        except OSError as error:
            raise MountError(f"the file system on {point} cannot be shut down: {error.strerror}") from None
    await end_users(service, device, signal.SIGKILL)


def _shut_down(point: Path) -> None:
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("=I", _NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def _end(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes, by descriptors: a number that was given to another in between is not hit."""
    descriptors = []
    try:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
                descriptors.append(descriptor)
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                continue
        poll = select.poll()
        waiting = set(descriptors)
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + _ENDING_SECONDS
        while waiting and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                poll.unregister(descriptor)
                waiting.discard(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _held(what: str, found: Iterable[Holder]) -> str:
    named = "; ".join(str(holder) for holder in found)
    return f"{what} ({named})" if named else what


def _point(service: Service) -> Path:
    assert service.mount is not None
    return service.mount


def _number(device: Path | None) -> tuple[int, int] | None:
    if device is None:
        return None
    try:
        number = device.stat().st_rdev
    except OSError:
        return None
    return os.major(number), os.minor(number)
