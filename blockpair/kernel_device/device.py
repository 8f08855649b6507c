"""Attach a resource to a kernel device ``/dev/nbdN``, and keep that device through the daemon's death.

The kernel's client holds one end of each socket pair, the NBD server of this process the other, in the
transmission phase from the first byte, with simple replies. The device belongs to the kernel: when the daemon
dies its sockets close, and I/O waits, up to the dead-connection timeout, for `reattach` by the next daemon,
which finds the device by the identity written into it.

What the kernel's driver does, and what follows:

- New requests wait for a live socket for the dead-connection timeout, then fail with EIO. Requests that a
  dead socket had already carried stay in flight until their own timer fires, and only then move to the new
  socket; hence ``retry_s``, which sets that timer.
- With one connection and ``io_timeout_s`` 0 the timer does nothing but that: a server may hold an answer for
  as long as it likes (while I/O is suspended, say). With several, or an ``io_timeout_s``, the timer declares
  the connection of a slow answer dead and sends the request once more on another: the server must then
  `reattach` when one of its sockets ends, and must keep the order of writes that overlap over all its
  connections.
- Each connection is a hardware queue, of which the kernel uses no more than there are processors.
- DISCONNECT asks nobody: it fails the I/O of whoever has the device mounted. `detach` looks first.
- The kernel and udev read the device as soon as it has a size, and from Linux 6.11 on whoever sets something
  of its queue waits for those reads: all is set before, it is served, and then `open_up` gives it its size.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blockpair.kernel_device import netlink
from blockpair.kernel_device.holders import Holder, Use, holders

MIN_BLOCK_SIZE = 512
MAX_BLOCK_SIZE = 4096
_SECTOR = 512
_SYS_DEV_BLOCK = Path("/sys/dev/block")
_SYS_BLOCK = Path("/sys/block")
_BACKEND = re.compile(r"blockpair:(\d+):(.+)")
_POLL_S = 0.01


class KernelDeviceError(RuntimeError):
    """A kernel device could not be made, found or taken down; the message says why and what to do."""


class DeviceInUse(KernelDeviceError):
    """The device is held by somebody; `holders` says by whom."""

    def __init__(self, device: Device, users: list[Holder]) -> None:
        names = "; ".join(str(user) for user in users) or "something that cannot be seen from here"
        super().__init__(f"{device.path} is in use: {names}. Unmount or stop them, then try again")
        self.holders = users


@dataclass(frozen=True)
class Device:
    """A live kernel device: the identity of what it serves, its number and its count of connections."""

    identity: str
    index: int
    connections: int

    @property
    def path(self) -> Path:
        return Path(f"/dev/nbd{self.index}")

    @property
    def backend(self) -> str:
        """What the kernel shows in ``/sys/block/nbdN/backend``."""
        return f"blockpair:{self.connections}:{self.identity}"


@dataclass(frozen=True)
class Attachment:
    """A device and the server's ends of its socket pairs, which the caller owns from now on."""

    device: Device
    sockets: list[socket.socket]


def parse_backend(text: str, index: int) -> Device | None:
    """The device that a ``backend`` file describes; None where it is not ours."""
    match = _BACKEND.fullmatch(text.strip())
    return Device(match[2], index, int(match[1])) if match else None


def too_old(release: str) -> str | None:
    """Why a kernel of that release cannot have kernel devices, if it cannot."""
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < (5, 14):
        return f"kernel devices need Linux 5.14 or later, this is {release}"
    return None


def why_unavailable(load_module: bool = True) -> str | None:
    """Why there can be no kernel device here, with a remedy; None when there can. May load the nbd module."""
    if os.geteuid() != 0:
        return "kernel devices need root: run the daemon as root, or use the resource's Unix socket"
    if (old := too_old(os.uname().release)) is not None:
        return old
    if not Path("/sys/module/nbd").exists() and load_module:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["modprobe", "nbd"], capture_output=True, timeout=20, check=False)
    if not Path("/sys/module/nbd").exists():
        return "the kernel has no nbd driver: run 'modprobe nbd', or use the resource's Unix socket"
    return None


def available(load_module: bool = True) -> bool:
    """Whether this machine can have kernel devices; `why_unavailable` gives the reason."""
    return why_unavailable(load_module) is None


def useful_connections(wanted: int) -> int:
    """How many of ``wanted`` connections the kernel would use: one a possible processor, at least one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        last = int(re.findall(r"\d+", Path("/sys/devices/system/cpu/possible").read_text())[-1])
        return max(1, min(wanted, last + 1))
    return 1


def find(identity: str) -> Device | None:
    """The live device of an identity, whichever process attached it; None where there is none."""
    for file in _SYS_BLOCK.glob("nbd*/backend"):
        # A device may go while we look.
        with contextlib.suppress(OSError):
            device = parse_backend(file.read_text(), int(file.parent.name.removeprefix("nbd")))
            if device is not None and device.identity == identity:
                return device
    return None


def attach(
    identity: str,
    *,
    block_size: int = 4096,
    flags: int = netlink.FLAG_HAS_FLAGS | netlink.FLAG_SEND_FLUSH | netlink.FLAG_SEND_FUA,
    connections: int = 1,
    dead_conn_timeout_s: int = 600,
    io_timeout_s: int = 0,
) -> Attachment:
    """Make a kernel device, without a size so far, and return the server's ends of its connections: when they
    are served, `open_up`.

    ``identity`` is unique on the machine, survives the daemon and is printable (node and resource, or a
    UUID). ``flags`` are the NBD transmission flags.
    Raises `ValueError` for impossible arguments and `KernelDeviceError`; then there is no device.
    """
    _check_identity(identity, block_size)
    _check_connections(flags, connections, dead_conn_timeout_s, io_timeout_s)
    reason = why_unavailable()
    if reason:
        raise KernelDeviceError(reason)
    present = find(identity)
    if present is not None:
        raise KernelDeviceError(f"{identity} has {present.path} already: re-attach to it, or detach it first")
    backend = Device(identity, -1, connections).backend
    ours: list[socket.socket] = []
    kernels: list[socket.socket] = []
    try:
        for _ in range(connections):
            one, other = socket.socketpair()
            ours.append(one)
            kernels.append(other)
        try:
            index = netlink.connect(
                backend=backend,
                block_size=block_size,
                server_flags=flags,
                descriptors=[end.fileno() for end in kernels],
                io_timeout_s=io_timeout_s,
                dead_conn_timeout_s=dead_conn_timeout_s,
            )
        except netlink.NetlinkError as error:
            raise KernelDeviceError(str(error)) from error
        device = Device(identity, index, connections)
        try:
            _ensure_node(device)
        except BaseException:
            with contextlib.suppress(netlink.NetlinkError):
                netlink.disconnect(index)
            raise
    except BaseException:
        for end in ours:
            end.close()
        raise
    finally:
        for end in kernels:
            end.close()
    return Attachment(device, ours)


def open_up(device: Device, size_bytes: int, *, block_size: int = 4096, retry_s: float | None = None) -> None:
    """Let a device be used that is served by now; one that has a size already stays as it is.

    ``block_size``: the one that it was attached with. ``retry_s``: after how long the kernel looks anew at a
    request that waits, which it rounds up, by as much as a second or two; None where the device has an I/O
    timeout.
    Raises `ValueError` for impossible arguments; `KernelDeviceError`.
    """
    if size_bytes <= 0 or size_bytes % block_size:
        raise ValueError(f"size {size_bytes}: use a positive multiple of the block size {block_size}")
    if retry_s is not None and not 0.1 <= retry_s <= 3600:
        raise ValueError(f"retry interval {retry_s} s: use 0.1 to 3600 s")
    present = _size(device)
    if present > 0:
        return
    if present < 0:
        # It may be in use: nothing is changed of it.
        raise KernelDeviceError(f"{device.path} does not say which size it has; see the kernel's log")
    if retry_s is not None:
        _set_retry(device, retry_s)
    try:
        netlink.resize(device.index, device.backend, size_bytes)
    except netlink.NetlinkError as error:
        raise KernelDeviceError(str(error)) from error
    _await(lambda: _size(device) == size_bytes, 5, f"{device.path} does not show its {size_bytes} bytes")


def check_sector(sector_size: int, backing: Path) -> None:
    """Raises `KernelDeviceError` where a device with such sectors would ask for less than a sector of the
    disk below it.
    """
    try:
        found = backing.stat()
    except OSError:
        # A node without its disk serves through its peer, which reads and writes whole sectors by itself.
        return
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    folder = (_SYS_DEV_BLOCK / f"{os.major(number)}:{os.minor(number)}").resolve()
    # A partition has none of its own.
    for queue in (folder / "queue", folder.parent / "queue"):
        try:
            below = int((queue / "logical_block_size").read_text())
        except (OSError, ValueError):
            continue
        if sector_size < below:
            raise KernelDeviceError(
                f"nbd.sector_size is {sector_size}, and {backing} has sectors of {below} bytes: "
                f"set it to {below}"
            )
        return


def reattach(device: Device, *, dead: int | None = None, deadline_s: float = 10.0) -> Attachment:
    """Give a live device new connections in the place of dead ones; requests that wait go on over them.

    After a restart, all connections died with the old daemon: call it with what `find` returned. A server
    that lives and has read the end of some of its sockets passes their number as ``dead``.
    Raises `KernelDeviceError` when that many have not died within ``deadline_s``: another process serves the
    device.
    """
    wanted = device.connections if dead is None else dead
    deadline = time.monotonic() + deadline_s
    replaced: list[socket.socket] = []
    try:
        while len(replaced) < wanted:
            end = _replace_one(device)
            if end is not None:
                replaced.append(end)
            elif time.monotonic() > deadline:
                raise KernelDeviceError(
                    f"{device.path}: {len(replaced)} of {wanted} connections died within {deadline_s:g} s; "
                    f"another process still serves {device.identity}: stop it first"
                )
            else:
                time.sleep(_POLL_S)  # the kernel notices a closed socket on a worker of its own, soon
    except BaseException:
        for end in replaced:
            end.close()
        raise
    return Attachment(device, replaced)


def detach(device: Device, *, force: bool = False, grace_s: float = 2.0, deadline_s: float = 10.0) -> None:
    """Take the device down. Without ``force`` only when nobody holds it, and while the server serves it.

    A program that has it open and closes it within ``grace_s`` (udev looking at it) is waited for, a mount is
    not; what was written without a flush is flushed first. With ``force``, for a device whose server is gone,
    users get I/O errors at once, and the device stays known until the last of them has closed it.
    Raises `DeviceInUse` and then the device is as it was; `KernelDeviceError`.
    """
    live = find(device.identity)
    if live is None or live.index != device.index:
        return
    claim = None if force else _claim(device, grace_s)
    try:
        if claim is not None:
            os.fsync(claim)
        netlink.disconnect(device.index)
    except OSError as error:
        raise KernelDeviceError(f"{device.path} could not be taken down: {error}") from error
    finally:
        if claim is not None:
            # What is still dirty cannot be written any more; fsync above has written what there was.
            with contextlib.suppress(OSError):
                os.close(claim)
    if not force:
        _await(lambda: find(device.identity) is None, deadline_s, f"{device.path} is still attached")


def publish(device: Device, folder: Path, name: str) -> Path:
    """Point the stable name ``folder/name`` at the device, replacing an older link at once. Returns the link.

    Before `open_up`, so that whoever waits for the device finds it; `announce` comes after that.
    Raises `KernelDeviceError` where something other than a link has that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / name
    if link.exists() and not link.is_symlink():
        raise KernelDeviceError(f"{link} is not a symbolic link of ours: move it away and try again")
    temporary = folder / f".{name}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(device.path)
    temporary.replace(link)
    return link


def announce(device: Device) -> None:
    """Have udev look at the device anew: one that was there before makes no event of its own."""
    # Who may not say so has no udev.
    with contextlib.suppress(OSError):
        (_SYS_BLOCK / f"nbd{device.index}/uevent").write_text("change")


def withdraw(device: Device, folder: Path, name: str) -> None:
    """Remove the stable name where it still points at this device."""
    link = folder / name
    if link.is_symlink() and link.readlink() == device.path:
        link.unlink(missing_ok=True)
        announce(device)


def _check_identity(identity: str, block_size: int) -> None:
    if not identity.isprintable() or not 1 <= len(identity) <= 200:
        raise ValueError(f"identity {identity!r}: use 1 to 200 printable characters")
    if not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE or block_size & (block_size - 1):
        raise ValueError(
            f"block size {block_size}: use a power of two from {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE}"
        )


def _check_connections(flags: int, connections: int, dead_conn_timeout_s: int, io_timeout_s: int) -> None:
    if not 1 <= connections <= 64:
        raise ValueError(f"{connections} connections: use 1 to 64")
    if connections > 1 and not flags & netlink.FLAG_CAN_MULTI_CONN:
        raise ValueError(f"{connections} connections: the server must offer CAN_MULTI_CONN")
    if dead_conn_timeout_s < 1:
        raise ValueError(
            f"dead-connection timeout {dead_conn_timeout_s} s: use 1 s or more, or I/O fails at a restart"
        )
    if io_timeout_s < 0:
        raise ValueError(f"I/O timeout {io_timeout_s} s: use 0 (none) or more")


def _set_retry(device: Device, retry_s: float) -> None:
    # Set behind the driver's back: told by netlink, it would take a slow answer for a dead connection.
    file = _SYS_BLOCK / f"nbd{device.index}/queue/io_timeout"
    try:
        file.write_text(str(int(retry_s * 1000)))
    except OSError as error:
        raise KernelDeviceError(f"{file}: {error.strerror}; the retry interval cannot be set") from error


def _size(device: Device) -> int:
    try:
        return int((_SYS_BLOCK / f"nbd{device.index}/size").read_text()) * _SECTOR
    except (OSError, ValueError):
        return -1


def _ensure_node(device: Device) -> None:
    """Make the device node where devtmpfs or udev has not done so."""
    major, _, minor = (_SYS_BLOCK / f"nbd{device.index}/dev").read_text().strip().partition(":")
    number = os.makedev(int(major), int(minor))
    with contextlib.suppress(FileExistsError):
        os.mknod(device.path, stat.S_IFBLK | 0o660, number)
    status = device.path.stat()
    if not stat.S_ISBLK(status.st_mode) or status.st_rdev != number:
        raise KernelDeviceError(
            f"{device.path} is not the block device {major}:{minor}: remove it and try again"
        )


def _replace_one(device: Device) -> socket.socket | None:
    """Put one new connection in the place of a dead one; None where none is dead."""
    ours, kernels = socket.socketpair()
    try:
        with kernels:
            netlink.reconfigure(device.index, device.backend, [kernels.fileno()])
        # Our copy of the kernel's end is closed: if the driver did not keep one, the pair is dead by now.
        watch = select.poll()
        watch.register(ours, select.POLLHUP)
        if any(event & select.POLLHUP for _, event in watch.poll(0)):
            ours.close()
            return None
    except netlink.NetlinkError as error:
        ours.close()
        raise KernelDeviceError(f"{device.path} cannot be re-attached: {error}") from error
    except BaseException:
        ours.close()
        raise
    return ours


def _claim(device: Device, grace_s: float) -> int:
    """Open the device exclusively, with nobody else at it, so that nobody mounts it in the meantime."""
    deadline = time.monotonic() + grace_s
    while True:
        users: list[Holder] = []
        try:
            claim = os.open(device.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise KernelDeviceError(f"{device.path} cannot be claimed: {error.strerror}") from error
            users = holders(device.path)
        else:
            users = holders(device.path, ignore_pids=(os.getpid(),))
            if not users:
                return claim
            os.close(claim)
        if time.monotonic() > deadline or any(user.use is not Use.OPEN for user in users):
            raise DeviceInUse(device, users)
        time.sleep(_POLL_S)


def _await(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise KernelDeviceError(f"{otherwise} after {timeout_s:g} s; see the kernel's log")
        time.sleep(_POLL_S)
