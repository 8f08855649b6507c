"""Looks after the services of a Primary: a unit that dies is restarted or the service moves; a node that is
sick, or that no client can reach, hands it over. What to do is decided in `failover.restart`,
`failover.reach` and `health.handover`; this asks them, and acts.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import structlog

from blockpair.config.health import HealthConfig
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.events.event import Event, Filter
from blockpair.failover.reach import ReachMemory, ReachPolicy, judge_reach
from blockpair.failover.restart import Memory, Remedy, RestartPolicy, Verdict, judge
from blockpair.failover.units import UnitError
from blockpair.health.handover import Look, Policy, Watch, look, switched

Cause = Literal["unit", "health", "link"]
CAUSES: tuple[Cause, ...] = ("unit", "health", "link")
MOVES = Filter(kinds=("care.switchover", "care.moved-here"))
"""The events that tell of them."""
_REACH = ReachPolicy()
_STEP_SECONDS = 1.0
_UNITS_SECONDS = 2.0
_HEALTH_SECONDS = 5.0
_MOVED_BECAUSE: dict[Cause, str] = {
    "unit": "a unit does not stay up there",
    "health": "that node is sick",
    "link": "clients cannot reach that node",
}
# Within it, the role that changes is the switchover that was counted already.
_COUNTED_SECONDS = 300.0
# Between two services that leave a sick node: the first may have been what made it sick.
_APART_SECONDS = 120.0


@dataclass(frozen=True)
class Seen:
    """A service at one moment. ``settled``: nothing is on its way up or down; ``units``: in the order in
    which they start; ``peer``: one that is connected and in sync, and may take over; ``dark``: interfaces
    with an address of it, and without a carrier; ``diskless``: this node's own disk has failed.
    """

    primary: bool
    settled: bool
    units: tuple[str, ...] = ()
    peer: str | None = None
    dark: tuple[str, ...] = ()
    diskless: bool = False


class World(Protocol):
    """What the care sees and does."""

    def names(self) -> list[str]:
        """The services that are blockpair's to look after on this node."""

    async def seen(self, name: str) -> Seen | None:
        """One of them now; None where it cannot be told."""

    async def active(self, units: tuple[str, ...]) -> frozenset[str]:
        """Those that are active. Raises `UnitError` or `OSError`."""

    async def restart(self, name: str, unit: str) -> None:
        """Start a unit that is down. Raises `UnitError`, `OSError` or `TimeoutError`."""

    def own_score(self) -> float | None:
        """Of the last look at this node; None: it is not known."""

    async def peer_score(self, node: str) -> tuple[float, float] | None:
        """Of its last look at itself, and how many seconds ago that was; None: it is not known."""

    async def announce(self, node: str, name: str, cause: Cause) -> None:
        """Tell the peer that the service is about to come to it, and why. Raises `BlockpairError`."""

    async def switchover(self, name: str, to: str, why: str) -> None:
        """Move the service. Raises `BlockpairError`."""


@dataclass(frozen=True)
class Moved:
    """A move of a service by its Primary's own decision, ``age`` seconds ago."""

    name: str
    cause: Cause
    age: float


def remembered(events: Iterable[Event], now: datetime) -> list[Moved]:
    """The moves, to this node and away from it, that ``events`` tell of."""
    found = []
    for event in events:
        cause = next((one for one in CAUSES if one == event.fields.get("cause")), None)
        if MOVES.wants(event) and event.resource and cause:
            age = (now - datetime.fromisoformat(event.time)).total_seconds()
            found.append(Moved(event.resource, cause, max(0.0, age)))
    return found


@dataclass
class _Service:
    """What is remembered of one."""

    units: Memory = field(default_factory=Memory)
    reach: ReachMemory = field(default_factory=ReachMemory)
    health: Watch = field(default_factory=Watch)
    told: dict[Cause, str] = field(default_factory=dict)
    restarted: bool = False
    work: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being done about it."""
        return self.work is not None and not self.work.done()


class Care:
    """``hand_over``: whether services move by themselves; ``moves``: those before this daemon was started."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        *,
        hand_over: bool,
        moves: Iterable[Moved] = (),
        clock: Callable[[], float] = time.monotonic,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self._world = world
        self._policy = policy
        self._hand_over = hand_over
        self._clock = clock
        self._restarts = restarts or RestartPolicy()
        self._services: defaultdict[str, _Service] = defaultdict(_Service)
        self._units_due = self._health_due = float("-inf")
        self._last_left = float("-inf")
        self._log = structlog.get_logger().bind(part="care")
        now = clock()
        for move in moves:
            self._count(move.name, move.cause, now - move.age)

    def adopt(self, config: HealthConfig) -> None:
        """Go by this from the next look on; what is remembered stays."""
        self._policy, self._hand_over = config.policy, config.hand_over

    async def run(self) -> None:
        """Until cancelled; then what was begun is given up."""
        try:
            while True:
                await self.step()
                await asyncio.sleep(_STEP_SECONDS)
        finally:
            for service in self._services.values():
                if service.work is not None:
                    service.work.cancel()
            await self.idle()

    async def step(self) -> None:
        """Look at what is due, and begin what is to be done; does not wait for that."""
        now = self._clock()
        units, by_health = now >= self._units_due, now >= self._health_due
        if not units and not by_health:
            return
        self._units_due = now + _UNITS_SECONDS if units else self._units_due
        self._health_due = now + _HEALTH_SECONDS if by_health else self._health_due
        for name in self._world.names():
            service = self._services[name]
            if service.busy:
                continue
            try:
                seen = await self._world.seen(name)
                if seen is None:
                    continue
                if by_health:
                    await self._look_at_health(name, service, seen, now)
                if units and seen.primary and seen.settled and not service.busy:
                    self._look_at_links(name, service, seen, now)
                if units and seen.primary and seen.settled and seen.units and not service.busy:
                    await self._look_at_units(name, service, seen, now)
            except Exception:
                # The other services are looked after all the same.
                self._log.exception("care.failed", resource=name)

    async def idle(self) -> None:
        """Wait for the end of what was begun."""
        work = [service.work for service in self._services.values() if service.work is not None]
        if work:
            await asyncio.wait(work)

    def moved_here(self, name: str, cause: Cause, by: str) -> None:
        """A peer says that it is about to move the service here. Raises `BlockpairError` for one that is not
        looked after here.
        """
        if name not in self._world.names():
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"there is no service of {name} to look after on this node",
                "`blockpair config diff` shows whether the nodes agree",
            )
        self._count(name, cause, self._clock())
        self._log.warning(
            "care.moved-here",
            resource=name,
            peer=by,
            text=f"{by} is about to move {name} here",
            why=_MOVED_BECAUSE[cause],
            cause=cause,
        )

    def _count(self, name: str, cause: Cause, at: float) -> None:
        service = self._services[name]
        service.health = switched(service.health, at)
        if cause == "unit":
            memory = service.units
            service.units = Memory(memory.restarts, memory.dead_since, (*memory.switchovers, at))
        elif cause == "link":
            service.reach = service.reach.moved(at)

    def _look_at_links(self, name: str, service: _Service, seen: Seen, now: float) -> None:
        can = self._hand_over and seen.peer is not None
        service.reach, verdict = judge_reach(service.reach, _REACH, seen.dark, now, peer_can=can)
        if verdict.remedy is Remedy.SWITCHOVER and seen.peer is not None:
            service.work = self._begin(name, self._move(name, service, seen.peer, verdict.why, "link"))
        elif verdict.remedy is Remedy.STAY:
            self._stays(name, service, "link", verdict.why)
        elif not seen.dark:
            service.told.pop("link", None)

    def _stays(self, name: str, service: _Service, about: Cause, why: str) -> None:
        off = "" if self._hand_over else ' (hand_over = "off" in [health] of blockpair.toml)'
        self._once(service, about, why, "care.stays", resource=name, text=f"{name} stays here: {why}{off}")

    async def _look_at_units(self, name: str, service: _Service, seen: Seen, now: float) -> None:
        try:
            active = await self._world.active(seen.units)
        except (UnitError, OSError) as error:
            self._once(
                service, "unit", f"unseen: {error}", "care.unit-unseen", resource=name, text=str(error)
            )
            return
        can = self._hand_over and seen.peer is not None
        service.units, verdict = judge(service.units, self._restarts, seen.units, active, now, peer_can=can)
        if verdict.remedy is Remedy.RESTART:
            service.restarted = True
            service.work = self._begin(name, self._restart(name, verdict))
        elif verdict.remedy is Remedy.SWITCHOVER and seen.peer is not None:
            service.work = self._begin(name, self._move(name, service, seen.peer, verdict.why, "unit"))
        elif verdict.remedy is Remedy.STAY:
            self._stays(name, service, "unit", verdict.why)
        elif not verdict.unit:
            service.told.pop("unit", None)
            if service.restarted:
                service.restarted = False
                self._log.info(
                    "care.unit-recovered", resource=name, text=f"all units of {name} are active again"
                )

    async def _look_at_health(self, name: str, service: _Service, seen: Seen, now: float) -> None:
        own = self._world.own_score()
        if own is None and seen.diskless:
            # Then no score matters: it stays what it was.
            own = 100.0 if service.health.own is None else service.health.own
        if own is None:
            return
        peer: tuple[float, float] | None = None
        # The peer's is of interest only to one that may want to hand over.
        worth = min(own, service.health.own if service.health.own is not None else own)
        if seen.primary and seen.peer is not None and worth < self._policy.recovered_above:
            peer = await self._world.peer_score(seen.peer)
        score, age = (None, 0.0) if peer is None else peer
        before = service.health.primary
        service.health, decision = look(
            service.health,
            self._policy,
            Look(own, score, seen.peer is not None, seen.primary, age, seen.diskless),
            now,
        )
        if before not in (None, seen.primary) and not self._counted(service, now):
            service.health = switched(service.health, now)
            return
        if decision.alert:
            # Not told anew for every number in it.
            key = re.sub(r"\d+", "", decision.why)
            text = f"{name} stays on this sick node: {decision.why}"
            self._once(service, "health", key, "care.stays", resource=name, text=text)
        elif service.health.sick_since is None and not seen.diskless:
            service.told.pop("health", None)
        if not decision.hand_over or not seen.settled or seen.peer is None:
            return
        if not self._hand_over:
            text = f'{name} stays on this sick node: hand_over = "off" in [health] of blockpair.toml'
            self._once(service, "health", "off", "care.stays", resource=name, text=text, why=decision.why)
        elif seen.diskless or now - self._last_left >= _APART_SECONDS:
            self._last_left = now
            service.work = self._begin(name, self._move(name, service, seen.peer, decision.why, "health"))

    def _counted(self, service: _Service, now: float) -> bool:
        return any(now - at < _COUNTED_SECONDS for at in service.health.switchovers)

    def _begin(self, name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"care {name}")

    async def _restart(self, name: str, verdict: Verdict) -> None:
        log = self._log.bind(resource=name, unit=verdict.unit)
        log.warning("care.unit-restart", text=verdict.why)
        try:
            await self._world.restart(name, verdict.unit)
        except (UnitError, OSError, TimeoutError) as error:
            why = str(error) or "it was not active in time"
            log.warning("care.unit-restart", text=f"{verdict.unit} could not be restarted", why=why)
        except Exception:
            log.exception("care.failed")

    async def _move(self, name: str, service: _Service, to: str, why: str, cause: Cause) -> None:
        log = self._log.bind(resource=name, peer=to)
        log.warning("care.switchover", text=f"{name} moves to {to}", why=why, cause=cause)
        # Whichever way it ends; for the others, the decision has counted it already.
        service.health = switched(service.health, self._clock())
        try:
            await self._world.announce(to, name, cause)
            await self._world.switchover(name, to, why)
        except BlockpairError as error:
            log.error("care.switchover-failed", text=error.message, remedy=error.remedy)
        except Exception:
            log.exception("care.switchover-failed")
        else:
            log.info("care.switchover-done", text=f"{name} has moved to {to}")

    def _once(self, service: _Service, about: Cause, key: str, what: str, **told: str) -> None:
        """Tell until it is over, or it is something else."""
        if service.told.get(about) != key:
            service.told[about] = key
            self._log.error(what, **told)
