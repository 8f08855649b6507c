"""Measures the node every few seconds, tells when it becomes sick or well, asks its peers how they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from blockpair.cluster.cluster import Cluster
from blockpair.cluster.server import PeerMethod
from blockpair.config.health import HealthConfig
from blockpair.config.node import NodeConfig
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.health.level import Level, follow
from blockpair.health.report import HealthReport, NodeHealth, PeerHealth, parts_of
from blockpair.health.score import Health, Reading, health
from blockpair.health.sensors import Sensors, lag
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method

EVERY_SECONDS = 5.0
PEER_SECONDS = 2.0
_ASK = "peer.health"
_REASONS = 3

Call = Callable[[str, str, Any], Awaitable[Any]]
"""Calls a method of another member; raises `BlockpairError`."""


@dataclass(frozen=True)
class _Sample:
    health: Health
    level: Level
    unseen: tuple[str, ...]


class HealthWatch:
    """``lacking``: what the peers lack, in bytes, by resource that is Primary here; ``peers``: of the
    resources here; ``call``: another member's methods.
    """

    def __init__(
        self,
        node: str,
        config: HealthConfig,
        *,
        lacking: Callable[[], Awaitable[list[tuple[str, int]]]],
        peers: Callable[[], list[str]],
        call: Call,
        sensors: Sensors | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._config = config
        self._lacking = lacking
        self._peers = peers
        self._call = call
        self._sensors = sensors or Sensors()
        self._clock = clock
        self._sample: _Sample | None = None
        self._looking = asyncio.Lock()
        self._log = structlog.get_logger().bind(part="health")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                # Without it nobody hands over; the next look may succeed.
                self._log.exception("health.failed")
            await asyncio.sleep(EVERY_SECONDS)

    def adopt(self, config: HealthConfig) -> None:
        """Go by this from the next look on."""
        self._config = config

    async def look(self) -> None:
        """Measure once."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        measured = await asyncio.to_thread(self._sensors.look)
        readings: list[Reading] = [*measured.readings, *lag(await self._lacking())]
        found = health(readings, self._config.scales)
        before = None if self._sample is None else self._sample.level
        level = follow(before, self._config.policy, found.score, self._clock())
        self._sample = _Sample(found, level, measured.unseen)
        if before is not None and before.sick != level.sick:
            self._tell(level, found)

    def _tell(self, level: Level, found: Health) -> None:
        why = "; ".join(found.reasons[:_REASONS])
        if level.sick:
            text = f"{self._node} is sick: its score is {level.score:.0f} of 100"
            self._log.warning("health.sick", text=text, why=why, score=round(level.score))
        else:
            text = f"{self._node} is well again: its score is {level.score:.0f} of 100"
            self._log.info("health.recovered", text=text, score=round(level.score))

    def score(self) -> float | None:
        """Of the last look; None where that is too long ago to say anything."""
        sample = self._sample
        if sample is None or self._clock() - sample.level.at > self._config.policy.stale:
            return None
        return sample.health.score

    def own(self) -> NodeHealth:
        """What it tells. Raises `BlockpairError` before the first look."""
        sample = self._sample
        if sample is None:
            raise BlockpairError(ErrorKind.FAILED, "nothing was measured yet", "try again in a moment")
        return NodeHealth(
            node=self._node,
            score=round(sample.health.score, 1),
            smoothed=round(sample.level.score, 1),
            age_seconds=round(self._clock() - sample.level.at, 1),
            sick=sample.level.sick,
            hand_over=self._config.hand_over,
            parts=parts_of(sample.health),
            reasons=list(sample.health.reasons),
            unseen=list(sample.unseen),
        )

    async def peer(self, node: str) -> NodeHealth:
        """What another member tells of itself. Raises `BlockpairError`."""
        answer = await self._call(node, _ASK, NoParams())
        try:
            return msgspec.convert(answer, NodeHealth)
        except msgspec.ValidationError as error:
            raise BlockpairError(
                ErrorKind.FAILED, f"{node} tells its health in another form: {error}", "compare the versions"
            ) from None

    async def report(self) -> HealthReport:
        """This node, and what the peers tell now."""

        async def ask(node: str) -> PeerHealth:
            try:
                async with asyncio.timeout(PEER_SECONDS):
                    return PeerHealth(node, await self.peer(node))
            except TimeoutError:
                return PeerHealth(node, problem="it does not answer in time")
            except BlockpairError as error:
                return PeerHealth(node, problem=error.message)

        if self._sample is None:
            await self.look()
        own = self.own()
        return HealthReport(own, list(await asyncio.gather(*map(ask, self._peers()))))

    def peer_methods(self) -> dict[str, PeerMethod]:
        """What the other members may ask."""

        async def tell(_caller: str, _params: NoParams) -> Any:
            return self.own()

        return {_ASK: PeerMethod(NoParams, tell)}

    def methods(self) -> dict[str, Method]:
        """What the daemon's socket offers of it."""

        async def tell(_caller: Caller, _params: NoParams) -> HealthReport:
            return await self.report()

        return {"node.health": Method(NoParams, tell, read_only=True)}


def calling(cluster: Cluster) -> Call:
    """Calls that a member has to answer in a moment."""

    async def call(member: str, method: str, params: Any) -> Any:
        return await cluster.peers.call(member, method, params, timeout=PEER_SECONDS)

    return call


def watch_health(node: NodeConfig, manager: Manager, cluster: Cluster) -> HealthWatch:
    """The health of this node, told to the members of its cluster; before the cluster is started."""

    async def lacking() -> list[tuple[str, int]]:
        found = []
        for name in manager.running():
            try:
                status = await manager.runtime(name).status()
            except BlockpairError:
                # It has just been stopped, or has failed: that is told elsewhere.
                continue
            if status is not None and status.role == "Primary":
                found.append((name, sum(peer.out_of_sync_bytes for peer in status.peers)))
        return found

    def peers() -> list[str]:
        runtimes = [manager.runtime(name) for name in manager.running()]
        return sorted({peer.name for runtime in runtimes for peer in runtime.config.peers})

    watch = HealthWatch(node.name, node.health, lacking=lacking, peers=peers, call=calling(cluster))
    cluster.methods.update(watch.peer_methods())
    return watch
