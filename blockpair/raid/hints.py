"""Waits until there is reason to look at the arrays.

Three things end a wait, each of them a mere hint: a uevent of a block device (by pyudev); the kernel's word
on ``/proc/mdstat``, for a member that fails sends no uevent; and time, should both be missed.
"""

from __future__ import annotations

import os
import select
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_MDSTAT = Path("/proc/mdstat")


class Hints:
    """A context manager; it listens from the moment it is entered, so that nothing is missed between the
    first look and the first wait.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._poll = select.poll()
        self._monitors: dict[int, Any] = {}
        self._mdstat = -1
        self._wake = -1

    def __enter__(self) -> Hints:
        import pyudev  # type: ignore[import-untyped]

        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stack.callback(os.close, self._wake)
        self._poll.register(self._wake, select.POLLIN)
        context = pyudev.Context()
        # The kernel's own word comes at once, udev's when names and links are there.
        for source in ("kernel", "udev"):
            monitor = pyudev.Monitor.from_netlink(context, source=source)
            monitor.filter_by("block")
            monitor.start()
            self._monitors[monitor.fileno()] = monitor
            self._poll.register(monitor.fileno(), select.POLLIN)
        self._open_mdstat()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake = -1
        self._stack.close()

    def wake(self) -> None:
        """End the wait that is under way, or the next one. For any thread."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def wait(self, seconds: float) -> set[str]:
        """Return when something may have changed, or after ``seconds``; the devices that came."""
        came: set[str] = set()
        if self._mdstat < 0:
            self._open_mdstat()
        for descriptor, _ in self._poll.poll(max(0.0, seconds) * 1000):
            if descriptor == self._mdstat:
                self._reread()
            elif descriptor == self._wake:
                os.eventfd_read(self._wake)
            else:
                while (device := self._monitors[descriptor].poll(timeout=0)) is not None:
                    if device.action == "add":
                        came.add(device.sys_name)
        return came

    def _open_mdstat(self) -> None:
        """It is not there before md is loaded; the first array's uevent is heard all the same."""
        try:
            self._mdstat = os.open(_MDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._stack.callback(os.close, self._mdstat)
        self._poll.register(self._mdstat, select.POLLPRI | select.POLLERR)
        self._reread()

    def _reread(self) -> None:
        """The file must be read for its next change to be told."""
        os.lseek(self._mdstat, 0, os.SEEK_SET)
        while os.read(self._mdstat, 1 << 16):
            pass
