"""Holds syncs of arrays back where an application waits too long (`pace`), by ``sync_speed_max`` in sysfs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from blockpair.raid import latency, pace, sysfs
from blockpair.raid.events import Event, Severity
from blockpair.raid.memory import Memory
from blockpair.raid.model import Array
from blockpair.raid.outlook import until_whole
from blockpair.units import format_size

_LEAST_SECONDS = 1.0
_FILE = "sync_speed_max"


@dataclass
class _Paced:
    """An array from look to look. ``before``: what was in the file, to be written back; None: nothing was
    changed.
    """

    device: str
    at: float
    ticks: latency.Ticks | None
    usual_ms: float | None = None
    done_bytes: int | None = None
    limit: int | None = None
    before: str | None = None
    told: bool = False


class Pacer:
    """``asked_ms``: the bound, or None; ``memory``: what to write back, should this program be killed."""

    def __init__(
        self, asked_ms: float | None, memory: Memory, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._asked_ms, self._memory, self._clock = asked_ms, memory, clock
        self._arrays: dict[str, _Paced] = {}

    def look(self, arrays: Iterable[Array]) -> Iterator[Event]:
        """Measure what each array's application waits, and adapt the speed of its sync; tells when it first
        holds one back.
        """
        now = self._clock()
        known = {array.uuid: array for array in arrays}
        for uuid in [uuid for uuid in self._arrays if uuid not in known]:
            del self._arrays[uuid]
        for uuid, array in known.items():
            ticks = sysfs.ticks(array.device)
            paced = self._arrays.get(uuid)
            if paced is None or paced.device != array.device:
                self._restore(uuid, array.device)
                self._arrays[uuid] = _Paced(array.device, now, ticks)
                continue
            if now - paced.at < _LEAST_SECONDS:
                continue
            seconds, paced.at = now - paced.at, now
            waited = latency.waited(paced.ticks, ticks, seconds) if paced.ticks and ticks else None
            paced.ticks = ticks
            yield from self._adapt(array, paced, waited, seconds)

    def _adapt(self, array: Array, paced: _Paced, waited_ms: float | None, seconds: float) -> Iterator[Event]:
        if array.sync is None:
            paced.usual_ms = pace.usual(paced.usual_ms, waited_ms)
            paced.done_bytes, paced.told = None, False
            self._give_back(array.uuid, paced)
            return
        done, paced.done_bytes = paced.done_bytes, array.sync.done_bytes
        if done is None:
            return
        limits = self._limits(paced)
        if limits is None:
            return
        window = pace.Window(waited_ms, max(0, int((array.sync.done_bytes - done) / seconds)) >> 10)
        allowed = pace.bound(paced.usual_ms, self._asked_ms)
        limit = pace.step(limits.most if paced.limit is None else paced.limit, window, allowed, limits)
        if limit == limits.most:
            self._give_back(array.uuid, paced)
        elif limit != paced.limit:
            self._hold(array.uuid, paced, limit)
            if not paced.told and paced.limit is not None:
                paced.told = True
                yield _told(array, waited_ms or 0.0, allowed, limit)

    def _limits(self, paced: _Paced) -> pace.Limits | None:
        """None while there is nothing to hold back."""
        least, most = sysfs.speed_limit(paced.device, "sync_speed_min"), self._own(paced)
        return None if least is None or most is None else pace.Limits(least.kib, most.kib)

    def _own(self, paced: _Paced) -> sysfs.SpeedLimit | None:
        """What others allow. Where somebody has written another number than this did, that is it now."""
        found = sysfs.speed_limit(paced.device, _FILE)
        if found is None or paced.before is None:
            return found
        if found.kib != paced.limit:
            paced.before, paced.limit = None, None
            return found
        if paced.before.isdigit():
            return sysfs.SpeedLimit(int(paced.before), local=True)
        system = sysfs.system_speed_max()
        return None if system is None else sysfs.SpeedLimit(system, local=False)

    def _hold(self, uuid: str, paced: _Paced, limit: int) -> None:
        if paced.before is None:
            found = sysfs.speed_limit(paced.device, _FILE)
            if found is None:
                return
            paced.before = str(found.kib) if found.local else "system"
            # Before the first change: a daemon that is killed after it leaves what the next one writes back.
            with suppress(OSError):
                self._memory.set(uuid, paced.before)
        with suppress(OSError):
            sysfs.write_attribute(paced.device, _FILE, str(limit))
            paced.limit = limit

    def _give_back(self, uuid: str, paced: _Paced) -> None:
        """Write back what was there, unless somebody has written something else."""
        if paced.before is None:
            return
        found = sysfs.speed_limit(paced.device, _FILE)
        if found is not None and found.kib == paced.limit:
            with suppress(OSError):
                sysfs.write_attribute(paced.device, _FILE, paced.before)
        paced.before = paced.limit = None
        with suppress(OSError):
            self._memory.set(uuid, None)

    def _restore(self, uuid: str, device: str) -> None:
        """Undo what a program that was killed left."""
        before = self._memory.get(uuid)
        if before is not None:
            with suppress(OSError):
                sysfs.write_attribute(device, _FILE, before)
            with suppress(OSError):
                self._memory.set(uuid, None)

    def end(self) -> None:
        """Leave every array as it was found."""
        for uuid, paced in self._arrays.items():
            self._give_back(uuid, paced)
        self._arrays.clear()


def _told(array: Array, waited_ms: float, allowed_ms: float, limit: int) -> Event:
    what = array.sync.action if array.sync is not None else "sync"
    left = until_whole(array)
    return Event(
        array.name,
        array.uuid,
        "sync.held-back",
        Severity.INFO,
        f"the {what} of {array.name} is held back: an I/O took {waited_ms:.1f} ms, "
        f"{allowed_ms:.1f} ms are allowed",
        f"at most {format_size(limit << 10)}/s for now" + (f"; {left}" if left else ""),
    )
