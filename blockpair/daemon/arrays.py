"""The daemon's eye on the md arrays of this node: a thread that watches them and, as configured, heals them.
What it tells is logged, and so are events; what it last saw is for the status and the metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from threading import Event as Flag
from threading import Thread
from typing import Any

import structlog

from blockpair.config.locations import Locations, locations
from blockpair.config.node import NodeConfig
from blockpair.config.resource import ResourceConfig
from blockpair.daemon.manager import Manager
from blockpair.daemon.voting import Voting
from blockpair.errors import BlockpairError
from blockpair.raid.devices import arrays_below, resources_above
from blockpair.raid.events import Event, Severity
from blockpair.raid.health import Health
from blockpair.raid.model import Array
from blockpair.raid.standing import Standing
from blockpair.raid.turn import Turn
from blockpair.raid.watch import Watch
from blockpair.status.arrays import advice_on_arrays
from blockpair.status.report import Advice

KIND = "raid."
_REST_SECONDS = 60.0
_SYNCS_SECONDS = 10.0
# How long the end of a watch is waited for: a command on a disk that hangs may hang with it.
_END_SECONDS = 5.0
_SYNCS = ("SyncSource", "SyncTarget", "VerifySource", "VerifyTarget")
_LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "error"}


def kind_of(code: str) -> str:
    """The kind of event in the node's stream for a code of `blockpair.raid`: ``raid.member-failed``."""
    return KIND + code.replace(".", "-")


class Arrays:
    """``syncs``: whether a resource of this node is being synced or verified, for then no scrub begins."""

    def __init__(self, node: NodeConfig, places: Locations, syncs: Callable[[], Awaitable[bool]]) -> None:
        self._places, self._syncs = places, syncs
        self._busy = True
        self._rules = node.raid.rules
        # A node with a directory of its own is one of several on this machine, and the arrays are nobody's.
        self.watching = node.raid.watch if node.raid.watch is not None else places == locations({})
        self._watch: Watch | None = None
        self._ending = Flag()
        self._misread: set[str] = set()
        self.voting: Voting | None = None
        """What becomes of differences that a scrub found."""
        self._log = structlog.get_logger().bind(part="raid")

    @property
    def known(self) -> Mapping[str, Array] | None:
        """The arrays by UUID as they were a moment ago; None where this daemon does not watch them."""
        return None if self._watch is None else self._watch.arrays

    @property
    def health(self) -> Mapping[str, Health]:
        """Of their members, by the kernel's names."""
        return {} if self._watch is None else self._watch.health

    @property
    def standings(self) -> Mapping[str, Standing]:
        """Of differences between copies that scrubs found, by the arrays' UUIDs."""
        return {} if self.voting is None else self.voting.standings

    @property
    def healed(self) -> Mapping[str, int]:
        """Of these, the bytes that were written anew since the daemon began."""
        return {} if self.voting is None else self.voting.healed

    async def advice(self, config: ResourceConfig) -> list[Advice]:
        """What is to be said of the arrays below a resource."""
        known, health = self.known, self.health
        if not known:
            return []
        below = await asyncio.to_thread(_below, config)
        mine = (array for array in known.values() if array.device in below)
        return list(advice_on_arrays(mine, health, self.standings))

    async def run(self) -> None:
        """Watch until cancelled; nothing where this node does not."""
        if not self.watching:
            return
        thread = Thread(target=self._run, name="bp-raid", daemon=True)
        thread.start()
        voting = None if self.voting is None else asyncio.create_task(self.voting.run())
        try:
            while True:
                self._busy = self._rules.scrub_seconds is not None and await self._syncs()
                await asyncio.sleep(_SYNCS_SECONDS)
        finally:
            if voting is not None:
                voting.cancel()
            self._ending.set()
            if self._watch is not None:
                self._watch.end()
            await asyncio.to_thread(thread.join, _END_SECONDS)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow()
            except Exception:
                # The next one may fare better; without any, arrays are cared for by nobody.
                self._log.exception("raid.failed")
                self._ending.wait(_REST_SECONDS)

    def _follow(self) -> None:
        with Turn() as turn:
            self._watch = watch = Watch(
                self._rules,
                resources=self._places.resources,
                speeds=self._places.array_speeds,
                scrubs=self._places.array_scrubs,
                busy=lambda: self._busy,
                may_heal=turn.take,
            )
            if self._ending.is_set():
                return
            for event in watch.events():
                self.tell(event)
                array = (watch.arrays or {}).get(event.uuid)
                if (
                    array is not None
                    and self._finds(event, array)
                    and turn.take()
                    and self.voting is not None
                ):
                    self.voting.want(array)

    def _finds(self, event: Event, array: Array) -> bool:
        """Whether it is the end of a scrub after which the copies have to be looked at one by one."""
        if event.code == "member.read-errors":
            # Where no copy could be read, md has nothing to write anew, and says no more of it.
            self._misread.add(array.uuid)
        if event.code != "scrub.ended" or not self._rules.heal:
            return False
        misread = array.uuid in self._misread
        self._misread.discard(array.uuid)
        return misread or array.mismatch_bytes > 0

    def tell(self, event: Event) -> None:
        """Log what happened to an array. For any thread but the loop's: it looks at devices."""
        array = (self.known or {}).get(event.uuid)
        above = [] if array is None else resources_above(array.device, self._places.resources)
        told: dict[str, Any] = {"text": event.text}
        if event.array:
            told["array"] = event.array
        if event.device is not None:
            told["device"] = event.device
        if event.severity is not Severity.INFO:
            told["remedy"] = f"blockpair raid status {event.array}".strip()
        if len(above) == 1:
            told["resource"] = above[0]
        elif above:
            told["resources"] = ", ".join(above)
        getattr(self._log, _LEVELS[event.severity])(kind_of(event.code), **told)


def _below(config: ResourceConfig) -> frozenset[str]:
    below = arrays_below(config.device)
    return below if config.metadata is None else below | arrays_below(config.metadata)


def watch_arrays(node: NodeConfig, places: Locations, manager: Manager) -> Arrays:
    """The eye on this node's arrays, which the status of its resources asks."""

    async def syncs() -> bool:
        for name in manager.running():
            try:
                status = await manager.runtime(name).status()
            except BlockpairError:
                # It has just been stopped, or has failed: that is told elsewhere.
                continue
            if status is not None and any(peer.replication in _SYNCS for peer in status.peers):
                return True
        return False

    found = Arrays(node, places, syncs)
    found.voting = Voting(places, manager, lambda: found.known, found.tell)
    manager.reports.array_advice = found.advice
    return found
