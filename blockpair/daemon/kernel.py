"""The kernel's block device of one resource: wanted or not, attached, re-attached, taken down.

Everything here may block; the daemon calls it on worker threads, one call a resource at a time.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from pathlib import Path

from blockpair.bridge import Running
from blockpair.config.node import KernelDevice
from blockpair.daemon.desired import DeviceMarker
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.kernel_device import device as nbd
from blockpair.kernel_device import memory, netlink
from blockpair.status.engine import EngineStatus
from blockpair.status.report import KernelDeviceStatus

_FLAGS = (
    netlink.FLAG_HAS_FLAGS
    | netlink.FLAG_SEND_FLUSH
    | netlink.FLAG_SEND_FUA
    | netlink.FLAG_SEND_TRIM
    | netlink.FLAG_SEND_WRITE_ZEROES
    | netlink.FLAG_CAN_MULTI_CONN
)
# After a daemon's restart, requests that its predecessor had taken wait at least this long.
_RETRY_S = 1.0


class LockedMemory:
    """While any kernel device is attached, the daemon's memory stays locked, and it is not the one to be
    killed for want of memory.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._users = 0
        self._score = 0

    def acquire(self) -> None:
        """Raises `memory.ProtectionError`."""
        with self._mutex:
            if self._users == 0:
                self._score = memory.spare()
                try:
                    memory.lock_memory()
                except memory.ProtectionError:
                    memory.unspare(self._score)
                    raise
            self._users += 1

    def release(self) -> None:
        """Raises `memory.ProtectionError`."""
        with self._mutex:
            self._users -= 1
            if self._users == 0:
                memory.unlock_memory()
                memory.unspare(self._score)


class ResourceDevice:
    """The kernel device of one resource. ``identity``: what that of each of its devices begins with; ``mode``
    off: none; auto: where the kernel can; required: or no promotion.
    """

    def __init__(
        self,
        identity: str,
        *,
        marker: DeviceMarker,
        link: Path,
        mode: KernelDevice,
        queues: int,
        sector_size: int,
        dead_connection_timeout: float,
        locked: LockedMemory,
    ) -> None:
        self.mode = mode
        self._identity = identity
        self._marker = marker
        self._link = link
        self._queues = queues
        self._sector_size = sector_size
        self._timeout = max(1, round(dead_connection_timeout))
        self._locked = locked
        self._device: nbd.Device | None = None
        self._error: str | None = None
        # Of connections that are to be replaced: why they were not, and whether the last look missed some.
        self._lost: str | None = None
        self._missed = False
        self._prepared = False

    @property
    def attached(self) -> bool:
        """Whether this daemon serves a device."""
        return self._device is not None

    def status(self) -> KernelDeviceStatus:
        """For the report."""
        if self._device is None:
            return KernelDeviceStatus(attached=False, error=self._error)
        return KernelDeviceStatus(
            attached=True,
            link=str(self._link),
            path=str(self._device.path),
            error=self._error or self._lost,
        )

    def prepare(self) -> None:
        """Make the next `attach` a quick one, where the node may have to take over at any time; once is
        enough.
        """
        if not self._prepared:
            self._prepared = True
            if self.mode != "off" and nbd.available():
                netlink.prepare()

    def attach(self, running: Running, status: EngineStatus) -> None:
        """Serve the live device of an earlier daemon, or make one. Raises `BlockpairError` only if it is
        required.
        """
        if self.mode == "off" or self._device is not None:
            return
        reason = nbd.why_unavailable()
        try:
            if reason is not None:
                if self.mode == "required":
                    raise nbd.KernelDeviceError(reason)
                return
            self._attach(running, status)
            self._error = None
        except (nbd.KernelDeviceError, memory.ProtectionError, OSError, ValueError, BlockpairError) as error:
            self._error = str(error)
            if self.mode == "required":
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"the kernel device cannot be attached: {error}",
                    'put that right, or set kernel_device = "auto" in the configuration',
                ) from None

    def _attach(self, running: Running, status: EngineStatus) -> None:
        self._locked.acquire()
        try:
            running.io_flusher(True)
            live = self._live()
            if live is not None:
                attachment = nbd.reattach(live)
            else:
                nbd.check_sector(self._sector_size, Path(status.backing.path))
                # Another one each time: who has an older one mounted still gets errors from that.
                identity = f"{self._identity}/{secrets.token_hex(4)}"
                self._marker.set(identity)
                attachment = nbd.attach(
                    identity,
                    block_size=self._sector_size,
                    flags=_FLAGS,
                    # A connection more makes the kernel send an answer's request again when it is late
                    # (writes that are suspended are), so more than one is for those who ask for it.
                    connections=nbd.useful_connections(self._queues or 1),
                    dead_conn_timeout_s=self._timeout,
                )
            self._device = attachment.device
            try:
                unnamed = self._open(running, status, attachment)
            except BaseException:
                if live is None:
                    # Nobody has seen it yet.
                    self._device = None
                    with contextlib.suppress(nbd.KernelDeviceError):
                        nbd.detach(attachment.device, force=True)
                raise
            if unnamed is not None:
                raise unnamed
        except BaseException:
            if self._device is None:
                self._locked.release()
            raise

    def _open(self, running: Running, status: EngineStatus, attachment: nbd.Attachment) -> Exception | None:
        """Serve it, name it, and let it be used; why it has no name, if so: its own will do."""
        unnamed: Exception | None = None
        for end in attachment.sockets:
            running.attach(end.detach())
        try:
            nbd.publish(attachment.device, self._link.parent, self._link.name)
        except (nbd.KernelDeviceError, OSError) as error:
            unnamed = error
        # One that was there before has its size already, unless the daemon before this one ended just then.
        nbd.open_up(attachment.device, status.size_bytes, block_size=self._sector_size, retry_s=_RETRY_S)
        nbd.announce(attachment.device)
        return unnamed

    def mend(self, running: Running, status: EngineStatus) -> None:
        """Replace connections that the kernel has given up. Faults are kept for the report, until none is
        missing any more.
        """
        if self._device is None:
            return
        served = sum(client.kind == "kernel" for client in status.clients)
        dead = self._device.connections - served
        if dead <= 0:
            self._missed, self._lost = False, None
            return
        if not self._missed:
            # The look may be older than the connections: the next one is not.
            self._missed = True
            return
        try:
            for end in nbd.reattach(self._device, dead=dead).sockets:
                running.attach(end.detach())
            self._missed, self._lost = False, None
        except (nbd.KernelDeviceError, OSError, BlockpairError) as error:
            self._lost = str(error)

    def detach(self, running: Running) -> None:
        """Take the device down if nobody holds it. Raises `BlockpairError` that names who does."""
        if self._device is None:
            return
        try:
            nbd.detach(self._device)
        except nbd.DeviceInUse as error:
            users = (
                "; ".join(str(holder) for holder in error.holders)
                or "something that cannot be seen from here"
            )
            raise BlockpairError(
                ErrorKind.IN_USE,
                f"{self._link} ({self._device.path}) is in use: {users}",
                "unmount it or stop those programs, then try again",
            ) from None
        except nbd.KernelDeviceError as error:
            raise BlockpairError(ErrorKind.FAILED, str(error), "see the kernel's log (`dmesg`)") from None
        running.detach()
        self._forget()

    def abandon(self) -> bool:
        """Take a device down whose data this node must not serve: its users get I/O errors. Whether there was
        one.
        """
        if self.mode == "off":
            return False
        device = self._device or self._live()
        if device is None:
            return False
        try:
            nbd.detach(device, force=True)
        except nbd.KernelDeviceError as error:
            self._error = str(error)
            return False
        if self._device is None:
            nbd.withdraw(device, self._link.parent, self._link.name)
            self._marker.clear()
        else:
            self._forget()
        return True

    def _live(self) -> nbd.Device | None:
        """What an earlier daemon served. Raises `OSError`."""
        identity = self._marker.get()
        return None if identity is None else nbd.find(identity)

    def leave(self) -> None:
        """The daemon ends: the device stays in the kernel and waits for the next daemon."""
        if self._device is not None:
            self._device = None
            self._locked.release()

    def _forget(self) -> None:
        assert self._device is not None
        nbd.withdraw(self._device, self._link.parent, self._link.name)
        self._marker.clear()
        self._device = None
        self._error = None
        self._missed, self._lost = False, None
        self._locked.release()
