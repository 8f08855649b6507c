"""Keep a process that serves a block device from waiting for memory that only its own work would free.

When memory is short, the kernel writes dirty pages back, through the daemon where they belong to its device.
A daemon whose own pages were dropped, or which itself waits in the allocator for that write-back, would never
answer. So, while a kernel device is attached, its memory is locked, it is the last that is killed for want of
memory, and its threads are marked as I/O flushers (PR_SET_IO_FLUSHER: their allocations never wait for I/O,
and they are not throttled for the dirty pages they are there to write).

The mark belongs to a single thread. A thread, and a child process, inherits it from the thread that makes it;
threads that exist already are not changed. So `hold` must be called on the thread that then starts the
engine's threads, or each of those calls `mark_thread` itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path

_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4  # lock pages as they are touched: reserved but unused memory stays unused
_OOM_SCORE = Path("/proc/self/oom_score_adj")
# As in blockpaird.service; -1000 is for what cannot leak.
_SPARED = -900
_PR_SET_IO_FLUSHER = 57
_PR_GET_IO_FLUSHER = 58

_libc = ctypes.CDLL(None, use_errno=True)


class ProtectionError(OSError):
    """The kernel refused to protect the process's memory; the message names the missing privilege."""


def _refused(what: str, capability: str, since: str) -> ProtectionError:
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.ENOMEM, errno.EAGAIN):
        remedy = f"grant {capability} (systemd: AmbientCapabilities={capability}, LimitMEMLOCK=infinity)"
    elif code == errno.EINVAL:
        remedy = f"it needs Linux {since} or later"
    else:
        remedy = "see the kernel's log"
    return ProtectionError(code, f"{what}: {os.strerror(code)}; {remedy}")


def lock_memory() -> None:
    """Lock all present and future pages of this process once they are touched. Raises `ProtectionError`."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        raise _refused("locking the daemon's memory (mlockall)", "CAP_IPC_LOCK", "4.4")


def unlock_memory() -> None:
    """Undo `lock_memory`. Raises `ProtectionError`."""
    if _libc.munlockall():
        raise _refused("unlocking the daemon's memory (munlockall)", "CAP_IPC_LOCK", "4.4")


def spare() -> int:
    """Have others killed first when there is no memory, for all I/O of the device would fail with this
    process; the score before. Raises `ProtectionError`.
    """
    try:
        before = int(_OOM_SCORE.read_text())
        if before > _SPARED:
            _OOM_SCORE.write_text(str(_SPARED))
    except OSError as error:
        raise ProtectionError(
            error.errno,
            f"lowering the daemon's score for the out-of-memory killer: {error.strerror}; "
            "grant CAP_SYS_RESOURCE, or start it with OOMScoreAdjust=-900 (systemd)",
        ) from None
    return before


def unspare(score: int) -> None:
    """Undo `spare`, which gave ``score``. Raises `OSError`."""
    _OOM_SCORE.write_text(str(score))


def mark_thread(flusher: bool = True) -> None:
    """Mark the calling thread, and those it makes later, as an I/O flusher. Raises `ProtectionError`."""
    if _libc.prctl(_PR_SET_IO_FLUSHER, ctypes.c_ulong(flusher), 0, 0, 0):
        raise _refused("marking a thread as an I/O flusher (PR_SET_IO_FLUSHER)", "CAP_SYS_RESOURCE", "5.6")


def thread_is_marked() -> bool:
    """Whether the calling thread is an I/O flusher. Raises `ProtectionError`."""
    answer = int(_libc.prctl(_PR_GET_IO_FLUSHER, 0, 0, 0, 0))
    if answer < 0:
        raise _refused(
            "asking for a thread's I/O flusher mark (PR_GET_IO_FLUSHER)", "CAP_SYS_RESOURCE", "5.6"
        )
    return answer == 1


class Protection:
    """Counts the attached kernel devices of a process; its memory is protected while there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._devices = 0

    def hold(self) -> None:
        """Before a device is attached: mark the calling thread, and lock the memory for the first device.

        Raises `ProtectionError`, and then nothing is left changed or counted.
        """
        with self._lock:
            marked = thread_is_marked()
            mark_thread()
            if self._devices == 0:
                try:
                    lock_memory()
                except ProtectionError:
                    mark_thread(marked)
                    raise
            self._devices += 1

    def release(self) -> None:
        """After a device is detached: with the last, unlock the memory and take the calling thread's mark.

        Raises `ProtectionError`; `RuntimeError` when no device is counted.
        """
        with self._lock:
            if self._devices == 0:
                raise RuntimeError("memory protection released more often than held")
            self._devices -= 1
            if self._devices == 0:
                mark_thread(False)
                unlock_memory()
