"""The machine under test: processes, counters, a quiet moment, a network namespace of our own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
TICKS = os.sysconf("SC_CLK_TCK")


class BenchFailed(Exception):
    """A race could not be run, or a result is wrong (not slow: wrong); the message says what."""


def wait_for(what: str, seconds: float, ready: Callable[[], bool]) -> None:
    """Polls `ready` until it holds; raises `BenchFailed` naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise BenchFailed(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.01)


def require(*programs: str) -> None:
    """Raises `BenchFailed` naming the programs that are not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise BenchFailed(
            f"not installed: {', '.join(missing)}; on Debian: apt-get install fio nbdkit libnbd-bin"
            " qemu-utils qemu-system-common"
        )


# -- network


def enter_private_network() -> bool:
    """Moves this process, and what it starts, into a network namespace with nothing but an own `lo`.

    Returns False without the right to do so: then `lo` is shared, and its counters also count strangers.
    Must run before the first thread starts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(control, SIOCGIFFLAGS, request))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
    return True


def loopback_bytes() -> int:
    """Bytes that went over this namespace's `lo` since it exists, with all headers; each counted once."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise BenchFailed("there is no loopback interface")


class Sampler:
    """A thread that samples something for as long as the block runs; `_watch` ends when `_stop` is set."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        raise NotImplementedError


class LoopbackWatch(Sampler):
    """Samples `lo` every 10 ms: how many bytes moved, and for how long traffic flowed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.seconds = 0.0

    def _watch(self) -> None:
        # Less than this in a sample is a heartbeat, not a transfer.
        quiet_bytes = 16 << 10
        start = last = loopback_bytes()
        first_at: float | None = None
        last_at = time.monotonic()
        while not self._stop.wait(0.01):
            seen, now = loopback_bytes(), time.monotonic()
            if seen - last > quiet_bytes:
                first_at = last_at if first_at is None else first_at
                self.seconds = now - first_at
            last, last_at = seen, now
        self.bytes = loopback_bytes() - start


def free_ports(count: int) -> list[int]:
    """TCP ports nobody uses on loopback now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def tcp_listening(port: int) -> bool:
    """Whether somebody listens on this port; read from /proc, so that no server sees a stray connection."""
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/thread-self/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
                return True
    return False


def unix_listening(path: Path) -> bool:
    """Whether somebody listens on this Unix socket; read from /proc."""
    accepting = 0x10000
    for line in Path("/proc/thread-self/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path) and int(fields[3], 16) & accepting:
            return True
    return False


# -- processes


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid: int, field: str = "VmRSS") -> int:
    """A memory figure of /proc/PID/status: VmRSS is resident now, VmHWM its highest value so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise BenchFailed(f"process {pid} shows no {field}")


class Server:
    """A program in the background, ended by its pid; it dies with this process, however that ends."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        seconds: float = 15,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            wait_for(f"{command[0]} is ready", seconds, lambda: self._alive_and(ready))
        except BaseException:
            self.stop()
            raise

    def _alive_and(self, ready: Callable[[], bool]) -> bool:
        if self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
            raise BenchFailed(f"{self._process.args!r} ended at once; its log ends:\n{tail}")
        return ready()

    def stop(self) -> None:
        """SIGTERM; SIGKILL after ten seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# -- time and place


def busy_share(seconds: float) -> float:
    """Share of all processors' time that was used during the next `seconds`, 0 to 1."""

    def read() -> tuple[int, int]:
        times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(times), times[3] + times[4]

    total, idle = read()
    time.sleep(seconds)
    total_after, idle_after = read()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def wait_until_quiet(seconds: float, limit: float = 0.1) -> float:
    """Waits, `seconds` at most, until the machine is nearly idle; returns the busy share last seen."""
    deadline = time.monotonic() + seconds
    while (busy := busy_share(0.2)) > limit and time.monotonic() < deadline:
        pass
    return busy


@contextlib.contextmanager
def workplace(parent: Path, needed_bytes: int) -> Iterator[Path]:
    """A fresh folder below `parent`, removed in the end. Raises `BenchFailed` when room is short."""
    room = shutil.disk_usage(parent).free
    if parent == Path("/dev/shm"):
        room = min(room, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable_bytes())
    if room < needed_bytes * 1.1:
        raise BenchFailed(
            f"{parent} has {room >> 20} MiB left, {needed_bytes >> 20} MiB are needed;"
            " free some, or use a smaller --size"
        )
    folder = Path(tempfile.mkdtemp(prefix="blockpair-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reclaimable_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, free = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemFree"))
    return max(0, available - free)


def has_module(path: Path, pid: int) -> bool:
    """Whether a process has mapped this shared library."""
    return str(path) in Path(f"/proc/{pid}/maps").read_text()
