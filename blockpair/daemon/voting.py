"""After a scrub that found differences: the peer of the resource on the array decides which copy is right."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Event as Flag

import structlog

from blockpair.bridge import Running
from blockpair.config.locations import Locations
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError
from blockpair.raid import standing as standings
from blockpair.raid import sysfs
from blockpair.raid.devices import place_on, resources_above
from blockpair.raid.events import Event
from blockpair.raid.legs import LEVELS, Legs
from blockpair.raid.memory import Memory
from blockpair.raid.model import Array
from blockpair.raid.outlook import healthy
from blockpair.raid.settle import Interrupted, Settling
from blockpair.raid.standing import Standing
from blockpair.raid.vote import Tally
from blockpair.status.engine import EngineStatus

_LOOK_SECONDS = 2.0
# What cannot be decided for so long is left to a person.
_TRIES = 3
_REST_SECONDS = 10.0
# While the application uses the array, it rests so many times as long as it read.
_GIVES_WAY = 3.0


@dataclass(frozen=True)
class _Place:
    """A resource in use on an array: where on it it begins, and its engine, in step with a peer."""

    resource: str
    start: int
    status: EngineStatus
    engine: Running


class _Waits(Exception):
    """It cannot be decided now, and why."""


class Voting:
    """``known``: the arrays as they were a moment ago; ``tell``: an event about one."""

    def __init__(
        self,
        places: Locations,
        manager: Manager,
        known: Callable[[], Mapping[str, Array] | None],
        tell: Callable[[Event], None],
    ) -> None:
        self._places, self._manager, self._known, self._tell = places, manager, known, tell
        self._memory = Memory(places.array_votes)
        self._standings = standings.begun_anew(standings.read(self._memory.all()))
        self._wanted: deque[Array] = deque()
        self._retry_at: dict[str, float] = {}
        # Where a pass that was interrupted goes on.
        self._reached: dict[tuple[str, str], int] = {}
        self._stuck: Counter[tuple[str, str, int]] = Counter()
        self._ending = Flag()
        self._log = structlog.get_logger().bind(part="raid")
        self.healed: Counter[str] = Counter()
        """Bytes written anew since this daemon began, by the array's UUID."""

    @property
    def standings(self) -> Mapping[str, Standing]:
        """What became of the differences of each array, by UUID."""
        return self._standings

    def want(self, array: Array) -> None:
        """A scrub of it has ended that found differences, or what it could not read. For any thread."""
        self._wanted.append(array)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                while self._wanted:
                    await self._begin(self._wanted.popleft())
                for uuid, standing in list(self._standings.items()):
                    if standing.pending and time.monotonic() >= self._retry_at.get(uuid, 0.0):
                        try:
                            await self._go_on(uuid)
                        except Exception:
                            # The others are decided on all the same, and this one is tried again.
                            self._retry_at[uuid] = time.monotonic() + _REST_SECONDS
                            self._log.exception("raid.vote-failed", uuid=uuid)
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._ending.set()

    async def _begin(self, array: Array) -> None:
        self._forget(array.uuid)
        known = array.geometry.level in LEVELS
        await self._keep(array.uuid, Standing(array.mismatch_bytes) if known else None)

    def _forget(self, uuid: str) -> None:
        self._reached = {key: at for key, at in self._reached.items() if key[0] != uuid}
        self._stuck = Counter({key: count for key, count in self._stuck.items() if key[0] != uuid})

    async def _keep(self, uuid: str, standing: Standing | None) -> None:
        # Before anybody sees it; what cannot be written is looked at once more after a restart.
        with suppress(OSError):
            text = None if standing is None else standings.text_of(standing)
            await asyncio.to_thread(self._memory.set, uuid, text)
        if standing is None:
            self._standings.pop(uuid, None)
        else:
            self._standings[uuid] = standing

    async def _go_on(self, uuid: str) -> None:
        array = (self._known() or {}).get(uuid)
        if array is None or array.sync is not None or not healthy(array):
            return
        names = await asyncio.to_thread(resources_above, array.device, self._places.resources)
        if not names:
            # Nobody can say which copy is right.
            return await self._keep(uuid, None)
        self._retry_at[uuid] = time.monotonic() + _REST_SECONDS
        try:
            for place in [await self._place(array, name) for name in names]:
                await self._pass(array, place)
        except _Waits as why:
            standing = self._standings[uuid]
            if standing.waits != str(why):
                await self._keep(uuid, standings.with_tally(standing, Tally(), ended=False, waits=str(why)))
            return
        await self._ended(array)

    async def _place(self, array: Array, name: str) -> _Place:
        """Raises `_Waits`."""
        try:
            # What its engine writes to, which its file may not say any more.
            runtime = self._manager.runtime(name)
            start = await asyncio.to_thread(place_on, runtime.config.device, array.device)
            if start is None:
                raise _Waits(
                    f"{name} is on it through the device mapper or a file, where no block can be placed"
                )
            status = await runtime.status()
            engine = runtime.engine()
        except BlockpairError as error:
            raise _Waits(error.message) from None
        why = None if status is None else why_not(status)
        if status is None or why is not None:
            raise _Waits(why or f"{name} is down")
        return _Place(name, start, status, engine)

    async def _pass(self, array: Array, place: _Place) -> None:
        """All of a resource. Raises `_Waits` where it has to go on later."""
        key = (array.uuid, place.resource)
        begin = self._reached.get(key, 0)
        if begin >= place.status.size_bytes:
            return
        tally, stopped = await asyncio.to_thread(self._compare, array, place, begin)
        self.healed[array.uuid] += tally.healed
        waits = "" if stopped is None else stopped.why
        self._reached[key] = place.status.size_bytes if stopped is None else stopped.at
        if stopped is not None and stopped.stuck:
            self._stuck[*key, stopped.at] += 1
            if self._stuck[*key, stopped.at] == _TRIES:
                tally.undecided += stopped.stuck
                self._reached[key] += stopped.stuck
        before = self._standings[array.uuid]
        await self._keep(array.uuid, standings.with_tally(before, tally, ended=False, waits=waits))
        if stopped is not None:
            raise _Waits(waits)

    def _compare(self, array: Array, place: _Place, begin: int) -> tuple[Tally, Interrupted | None]:
        block, size = place.status.block_size_bytes, place.status.size_bytes
        try:
            with Legs(array, block, place.start) as legs:
                settling = Settling(legs, place.engine, start=place.start, size=size, block=block)
                try:
                    settling.run(begin, self._rest(array))
                except Interrupted as stopped:
                    return settling.tally, stopped
                return settling.tally, None
        except OSError as error:
            return Tally(), Interrupted(f"a member cannot be opened: {error.strerror}", begin)

    def _rest(self, array: Array) -> Callable[[], bool]:
        """Called after each step: gives way to the application, and ends where something else comes first."""
        began, before = time.monotonic(), sysfs.ticks(array.device)

        def rest() -> bool:
            nonlocal began, before
            now = sysfs.ticks(array.device)
            if now != before:
                self._ending.wait(_GIVES_WAY * (time.monotonic() - began))
            began, before = time.monotonic(), sysfs.ticks(array.device)
            current = (self._known() or {}).get(array.uuid)
            return (
                not self._ending.is_set()
                and current is not None
                and current.sync is None
                and healthy(current)
            )

        return rest

    async def _ended(self, array: Array) -> None:
        standing = self._standings[array.uuid]
        ended = standings.with_tally(standing, Tally(), ended=True)
        self._forget(array.uuid)
        for event in standings.told(array, ended):
            await asyncio.to_thread(self._tell, event)
        await self._keep(array.uuid, ended)


def why_not(status: EngineStatus) -> str | None:
    """What keeps a resource's peer from deciding; None where nothing does."""
    if status.disk != "UpToDate":
        return f"the copy of this node is {status.disk}"
    for peer in status.peers:
        if (peer.replication, peer.disk) == ("Established", "UpToDate"):
            return None
    return "no peer is connected and in step"
