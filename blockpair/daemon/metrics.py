"""The daemon's metrics: gathers what `blockpair.metrics` makes samples of, and serves it if told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain

import structlog

from blockpair.cluster.cluster import Cluster
from blockpair.config.names import is_loopback
from blockpair.config.node import NodeConfig
from blockpair.daemon.arrays import Arrays
from blockpair.daemon.audits import Audits
from blockpair.daemon.health import HealthWatch
from blockpair.daemon.manager import Manager
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError
from blockpair.metrics.arbitration import arbitration
from blockpair.metrics.arrays import arrays
from blockpair.metrics.audits import audits, verified
from blockpair.metrics.cluster import Membership, configuration, membership
from blockpair.metrics.collectors import Collectors
from blockpair.metrics.family import Sample
from blockpair.metrics.fencing import fencing
from blockpair.metrics.health import health
from blockpair.metrics.http import MetricsServer, Page
from blockpair.metrics.machine import machine
from blockpair.metrics.peers import peers
from blockpair.metrics.resources import node as node_samples
from blockpair.metrics.services import services
from blockpair.raid.inventory import Inventory
from blockpair.trust import authority

# A port that is taken may be free again later.
_RETRY_SECONDS = 10.0


class Metrics:
    """For one node. A new subject is a function of `blockpair.metrics`, and an entry in `subjects`."""

    def __init__(
        self,
        node: NodeConfig,
        manager: Manager,
        cluster: Cluster,
        watchdog: NodeWatchdog,
        *,
        health: HealthWatch,
        arrays: Arrays,
        audits: Audits,
    ) -> None:
        self._node = node
        self._manager = manager
        self._cluster = cluster
        self._watchdog = watchdog
        self._health = health
        self._watched = arrays
        self._audits = audits
        self._inventory = Inventory()
        self._collectors = Collectors(self.subjects())
        self._log = structlog.get_logger().bind(part="metrics")

    def subjects(self) -> dict[str, Callable[[], Awaitable[Iterable[Sample]]]]:
        """What is looked at for a scrape."""
        return {
            "machine": self._machine,
            "resources": self._resources,
            "fence": self._fence,
            "audit": self._last_audit,
            "cluster": self._membership,
            "arrays": self._arrays,
            "health": self._own_health,
        }

    async def run(self) -> None:
        """Serve until cancelled; nothing where the configuration has no place for it. A port that cannot be
        had is tried again, and keeps the daemon from nothing.
        """
        address = self._node.metrics
        if address is None:
            return
        # With the HTTP servers of its own that it brings along: for those who want it.
        from blockpair.metrics.exposition import Exposition

        exposition = Exposition()

        async def page(accept: str) -> Page:
            samples = await self._collectors.samples()
            return await asyncio.to_thread(exposition.page, samples, accept)

        server = MetricsServer(page)
        told = ""
        try:
            while True:
                try:
                    port = await server.start(address)
                    break
                except BlockpairError as error:
                    if error.message != told:
                        self._log.error("metrics.closed", text=error.message, remedy=error.remedy)
                    told = error.message
                    await asyncio.sleep(_RETRY_SECONDS)
            self._log.info("metrics.open", port=port, loopback=is_loopback(address.host))
            await asyncio.Event().wait()
        finally:
            await server.close()
            self._collectors.close()

    async def _machine(self) -> Iterator[Sample]:
        watchdog = self._watchdog.engine
        armed = watchdog is not None and watchdog.descriptor() is not None
        return machine(self._node.name, self._node.watchdog.mode, armed=armed)

    async def _resources(self) -> Iterator[Sample]:
        report = await self._manager.status()
        return chain(
            node_samples(report),
            peers(report),
            arbitration(report),
            services(report),
            verified(report),
            configuration(report.configuration),
        )

    async def _last_audit(self) -> Iterator[Sample]:
        return audits(await self._audits.last())

    async def _fence(self) -> Iterator[Sample]:
        arbiter = self._manager.judges.fencing()
        return fencing([] if arbiter is None else arbiter.monitor.states)

    async def _membership(self) -> Iterator[Sample]:
        return membership(_membership(self._cluster))

    async def _arrays(self) -> Iterator[Sample]:
        # As they are now: the watch looks only now and then while nothing happens.
        found = await asyncio.to_thread(self._inventory.arrays)
        watched = self._watched
        return arrays(found.values(), watched.health, watched.healed, watched.standings)

    async def _own_health(self) -> Iterator[Sample]:
        try:
            known = self._health.own()
        except BlockpairError:
            # The first look is not over.
            known = None
        return health(known)


def _membership(cluster: Cluster) -> Membership | None:
    """What the daemon knows without asking anybody. Raises `BlockpairError`."""
    if not cluster.member:
        return None
    generation = cluster.generation
    return Membership(
        members={name: entry.lost for name, entry in cluster.content.node.items()},
        contact={name: seen.problem is None for name, seen in cluster.configuration.seen.items()},
        control_port=cluster.control_port is not None,
        certificates={
            "node": authority.inspect(generation.certificate).not_after,
            "authority": authority.inspect(generation.authority.certificate).not_after,
        },
    )
