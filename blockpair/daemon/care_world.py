"""What the care of services sees and does in a daemon: engines, units, peers, and whoever moves services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from msgspec import Struct

from blockpair.cluster.cluster import Cluster
from blockpair.cluster.server import PeerMethod
from blockpair.config.arbiter import MANUAL
from blockpair.config.node import NodeConfig
from blockpair.config.service import Service
from blockpair.daemon.care import MOVES, Care, Cause, Seen, remembered
from blockpair.daemon.health import PEER_SECONDS, Call, HealthWatch, calling
from blockpair.daemon.manager import Manager
from blockpair.daemon.service_replica import unready
from blockpair.daemon.services import Services
from blockpair.errors import BlockpairError
from blockpair.events import query
from blockpair.events.stream import Stream
from blockpair.failover import units
from blockpair.failover.carrier import without_carrier
from blockpair.status.engine import EngineStatus

_MOVE = "peer.care.move"


class MoveParams(Struct, forbid_unknown_fields=True):
    """The caller is about to move the service ``name`` here, because of ``cause``."""

    name: str
    cause: Cause


class CareWorld:
    """The world of `Care` on this node."""

    def __init__(self, manager: Manager, services: Services, health: HealthWatch, call: Call) -> None:
        self._manager = manager
        self._services = services
        self._health = health
        self._call = call

    def names(self) -> list[str]:
        """Those that have an arbiter: without one, a person or a cluster manager decides."""
        return [name for name in self._manager.running() if self._service(name) is not None]

    def _service(self, name: str) -> Service | None:
        configuration = self._manager.configuration
        content = None if configuration is None else configuration.content
        entry = None if content is None else content.resource.get(name)
        if entry is None or content is None or MANUAL in (entry.arbiter, content.arbiter.kind):
            return None
        try:
            definition = self._services.definition(name)
        except BlockpairError:
            # It is told of where it is carried out.
            return None
        return None if definition is None else definition.service

    async def seen(self, name: str) -> Seen | None:
        """One of them now."""
        service, status = self._service(name), self._services.status(name)
        try:
            engine = await self._manager.runtime(name).status()
        except BlockpairError:
            return None
        if service is None or engine is None or engine.state != "running":
            return None
        settled = status is not None and status.state == "up"
        primary = engine.role == "Primary" and not engine.resuming
        dark: tuple[str, ...] = ()
        if primary and service.vips:
            dark = await asyncio.to_thread(without_carrier, (one.interface for one in service.vips))
        ready = next(_ready(engine), None)
        return Seen(primary, settled, service.units, ready, dark, diskless=engine.disk == "Diskless")

    async def active(self, wanted: tuple[str, ...]) -> frozenset[str]:
        """Those that are active. Raises `UnitError` or `OSError`."""
        return await units.active(wanted)

    async def restart(self, name: str, unit: str) -> None:
        """Start a unit. Raises `UnitError`, `OSError` or `TimeoutError`."""
        service = self._service(name)
        async with asyncio.timeout(None if service is None else service.timeouts.start):
            await units.start(unit)

    def own_score(self) -> float | None:
        """This node's."""
        return self._health.score()

    async def peer_score(self, node: str) -> tuple[float, float] | None:
        """A peer's, and its age."""
        try:
            async with asyncio.timeout(PEER_SECONDS):
                found = await self._health.peer(node)
        except (BlockpairError, TimeoutError):
            return None
        return found.score, found.age_seconds

    async def announce(self, node: str, name: str, cause: Cause) -> None:
        """Tell the peer. Raises `BlockpairError`."""
        await self._call(node, _MOVE, MoveParams(name, cause))

    async def switchover(self, name: str, to: str, why: str) -> None:
        """Move the service. Raises `BlockpairError`."""
        await self._services.switchover(name, to=to, why=why)


def _ready(engine: EngineStatus) -> Iterator[str]:
    """The peers to which a switchover would go."""
    return (peer.name for peer in engine.peers if unready(engine, peer.name) is None)


def care_methods(moved_here: Callable[[str, Cause, str], None]) -> dict[str, PeerMethod]:
    """What the other members may tell."""

    async def move(caller: str, params: MoveParams) -> None:
        moved_here(params.name, params.cause, caller)

    return {_MOVE: PeerMethod(MoveParams, move)}


async def look_after(
    services: Services,
    node: NodeConfig,
    *,
    manager: Manager,
    cluster: Cluster,
    health: HealthWatch,
    stream: Stream,
) -> Care:
    """The care of this node's services, which members of the cluster tell of moves to it. What moved before
    this daemon was started is in the stream.
    """

    told = await asyncio.to_thread(query.newest, stream.folder, MOVES, None, query.MOST)
    care = Care(
        CareWorld(manager, services, health, calling(cluster)),
        node.health.policy,
        hand_over=node.health.hand_over,
        moves=remembered(told.events, datetime.now(UTC)),
    )
    cluster.methods.update(care_methods(care.moved_here))
    return care
