"""Measures this node: psutil, /proc/pressure and sysfs. What it cannot see it says, and leaves out of the
score.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blockpair.health.score import Reading

if TYPE_CHECKING:
    from psutil._ntuples import sdiskio

# Disks that are files, memory or the network in disguise: what lies below them is measured.
_NO_DISKS = ("loop", "ram", "zram", "nbd", "ublk", "sr", "fd", "dm-", "md")
_ERRORS_SECONDS = 3600.0
# timex(2): where the fields are, and that a clock is not synchronised, or counts in nanoseconds.
_TIMEX_BYTES, _TIMEX_OFFSET, _TIMEX_STATUS = 208, 8, 40
_STA_UNSYNC, _STA_NANO = 0x0040, 0x2000


@dataclass(frozen=True)
class Measured:
    """The readings, and the kinds of part that are not to be seen on this machine, each with the reason."""

    readings: tuple[Reading, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class DiskCounters:
    """Of one disk, since it is there: requests, milliseconds they took together, milliseconds it was busy."""

    requests: int
    request_ms: int
    busy_ms: int


@dataclass
class Sensors:
    """Looks at the machine; a rate is measured from one look to the next, so the first shows none.

    ``root``: where /proc and /sys are.
    """

    root: Path = Path("/")
    clock: Callable[[], float] = time.monotonic
    _disks: dict[str, DiskCounters] = field(default_factory=dict)
    _at: float | None = None
    _errors: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def look(self) -> Measured:
        """Measure everything. Takes a few milliseconds."""
        now = self.clock()
        found: list[Reading] = []
        unseen: list[str] = []
        for name, sensor in (
            ("cpu", self._cpu),
            ("memory", self._memory),
            ("disks", lambda: self._disk_rates(now)),
            ("disk errors", lambda: self._disk_errors(now)),
            ("arrays", self._arrays),
            ("links", self._links),
            ("clock", self._clock_offset),
            ("temperature", self._temperature),
        ):
            try:
                readings = list(sensor())
            except (OSError, ValueError, AttributeError) as error:
                unseen.append(f"{name}: {error}")
                continue
            if not readings and name in ("disks", "clock", "temperature", "disk errors"):
                unseen.append(f"{name}: nothing of the kind is to be seen here")
            found += readings
        self._at = now
        return Measured(tuple(found), tuple(unseen))

    def _cpu(self) -> Iterator[Reading]:
        pressure = self._pressure("cpu")
        if "some" in pressure:
            yield Reading("cpu", pressure["some"])
            return
        import psutil

        # Without PSI: by how many more want to run than can.
        load, cpus = psutil.getloadavg()[0], psutil.cpu_count() or 1
        yield Reading(
            "cpu", max(0.0, 100 * (1 - cpus / load)) if load > cpus else 0.0, note="from the load average"
        )

    def _memory(self) -> Iterator[Reading]:
        import psutil

        memory = psutil.virtual_memory()
        yield Reading("memory-available", 100 * memory.available / memory.total)
        pressure = self._pressure("memory")
        if "full" in pressure:
            yield Reading("memory", pressure["full"])

    def _disk_rates(self, now: float) -> Iterator[Reading]:
        import psutil

        counters = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
        disks = {name: _counters(counters[name]) for name in self._whole_disks() if name in counters}
        passed = None if self._at is None else now - self._at
        for name, new in disks.items():
            old = self._disks.get(name)
            if old is not None and passed:
                latency, busy = rates(old, new, passed)
                yield Reading("disk-latency", latency, name)
                yield Reading("disk-busy", busy, name)
        self._disks = disks

    def _disk_errors(self, now: float) -> Iterator[Reading]:
        for name in self._whole_disks():
            try:
                count = int((self.root / f"sys/block/{name}/device/ioerr_cnt").read_text(), 16)
            except (OSError, ValueError):
                continue
            seen = self._errors.setdefault(name, deque())
            seen.append((now, count))
            while seen[0][0] < now - _ERRORS_SECONDS:
                seen.popleft()
            yield Reading("disk-errors", count - seen[0][1], name, f"{count} since the machine was started")

    def _arrays(self) -> Iterator[Reading]:
        for folder in sorted((self.root / "sys/block").glob("md*/md")):
            state = _text(folder / "array_state")
            if state in ("clear", ""):
                continue
            missing = int(_text(folder / "degraded") or 0)
            failed = state in ("inactive", "broken", "failed")
            yield Reading("array", math.inf if failed else missing, folder.parent.name, state)

    def _links(self) -> Iterator[Reading]:
        import psutil

        states = psutil.net_if_stats()
        for name, addresses in psutil.net_if_addrs().items():
            folder = self.root / "sys/class/net" / name
            # A port that nobody gave an address is one that nobody waits for; its bond or bridge has it.
            used = any(address.family.name in ("AF_INET", "AF_INET6") for address in addresses)
            if not used or name == "lo" or not (folder / "flags").exists():
                continue
            administratively_up = int(_text(folder / "flags") or "0", 16) & 1
            yield Reading("link", 0.0 if states[name].isup or not administratively_up else 1.0, name)
            members = _text(folder / "bonding/slaves").split()
            if members:
                down = [
                    one for one in members if _text(folder.parent / one / "bonding_slave/mii_status") != "up"
                ]
                note = f"down: {', '.join(down)}" if down else ""
                yield Reading("bond", len(down) / len(members), name, note)

    def _clock_offset(self) -> Iterator[Reading]:
        buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            raise OSError("the kernel does not tell the clock's offset")
        status = int.from_bytes(buffer.raw[_TIMEX_STATUS : _TIMEX_STATUS + 4], "little")
        if status & _STA_UNSYNC:
            return
        offset = int.from_bytes(buffer.raw[_TIMEX_OFFSET : _TIMEX_OFFSET + 8], "little", signed=True)
        yield Reading("clock", abs(offset) / (1e9 if status & _STA_NANO else 1e6))

    def _temperature(self) -> Iterator[Reading]:
        import psutil

        for chip, sensors in sorted(psutil.sensors_temperatures().items()):
            hottest = max((s.current / s.critical for s in sensors if s.critical), default=None)
            if hottest is not None:
                yield Reading("temperature", 100 * hottest, chip)

    def _pressure(self, what: str) -> dict[str, float]:
        try:
            return parse_pressure((self.root / f"proc/pressure/{what}").read_text())
        except OSError:
            return {}

    def _whole_disks(self) -> list[str]:
        names = sorted(entry.name for entry in (self.root / "sys/block").iterdir())
        return [name for name in names if not name.startswith(_NO_DISKS)]


def parse_pressure(text: str) -> dict[str, float]:
    """The averages over ten seconds, in percent, of a ``/proc/pressure`` file: "some", and "full" where it
    is.
    """
    found = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        for name, _, value in (one.partition("=") for one in fields):
            if name == "avg10":
                found[kind] = float(value)
    return found


def rates(old: DiskCounters, new: DiskCounters, seconds: float) -> tuple[float, float]:
    """Milliseconds a request, and the share of the time that the disk was busy in percent, between two looks.

    A disk that was replaced begins to count anew, and shows nothing; one that is busy and completes
    nothing takes at least as long as was waited for it.
    """
    requests, took = new.requests - old.requests, new.request_ms - old.request_ms
    busy = 100 * (new.busy_ms - old.busy_ms) / (seconds * 1000)
    if requests < 0 or took < 0 or busy < 0:
        return 0.0, 0.0
    if requests:
        return took / requests, min(100.0, busy)
    return (seconds * 1000 if busy > 90 else 0.0), min(100.0, busy)


def lag(resources: Iterable[tuple[str, int]]) -> list[Reading]:
    """What the peers lack, by resource, in bytes."""
    return [Reading("lag", size / (1 << 20), name) for name, size in resources]


def _counters(found: sdiskio) -> DiskCounters:
    return DiskCounters(
        found.read_count + found.write_count,
        found.read_time + found.write_time,
        getattr(found, "busy_time", 0),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
