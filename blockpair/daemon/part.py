"""This node's part in a cluster, put together for the daemon."""

from __future__ import annotations

import asyncio

import structlog

from blockpair import _engine, bridge
from blockpair.cluster.care import Care
from blockpair.cluster.cluster import Cluster
from blockpair.cluster.membership import Membership
from blockpair.cluster.rekey import Rekey
from blockpair.cluster.removal import Removal
from blockpair.cluster.report import Reporter
from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig
from blockpair.daemon.cluster_methods import ClusterMethods
from blockpair.daemon.config_methods import ConfigMethods
from blockpair.daemon.creations import Creations
from blockpair.daemon.fencing import fence_methods
from blockpair.daemon.local import LocalResources
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError
from blockpair.rpc.server import Method
from blockpair.trust.store import Generation


class Part:
    """``cluster`` is to be started before resources are, and stopped before they are."""

    def __init__(
        self, node: NodeConfig, places: Locations, listener: _engine.Listener, manager: Manager
    ) -> None:
        self._manager = manager
        self._trusted: Generation | None = None

        async def give_trust(generation: Generation | None) -> None:
            trust = None
            if generation is not None:
                authority, certificate = generation.authority.certificate, generation.certificate
                trust = bridge.Trust(generation.node, authority, certificate, generation.key)
            await asyncio.to_thread(bridge.set_trust, listener, trust)
            self._trusted = generation
            self._judge()

        local = LocalResources(manager)
        self.cluster = Cluster(node, places, local, give_trust)
        rekey = Rekey(self.cluster)
        membership = Membership(self.cluster, listener.port)
        self._care = Care(self.cluster, membership, rekey)
        self._log = structlog.get_logger().bind(part="configuration")
        manager.configuration = self.cluster.configuration
        manager.peers = self.cluster.peers
        self.cluster.methods.update(fence_methods(manager.judges))
        self.creations = Creations(
            manager, self.cluster.configuration, self.cluster.peers, self.cluster.methods
        )
        self._config_methods = ConfigMethods(self.cluster.configuration, self.creations, manager.judges.look)
        reporter = Reporter(self.cluster, rekey, manager.judges.look)
        self.look = reporter.look
        """What `cluster status` shows."""
        self._methods = ClusterMethods(
            self.cluster, membership, Removal(self.cluster, rekey), rekey, reporter, local=local
        )

    async def start(self) -> None:
        """Take part; before the resources are started, which connect by what this node trusts."""
        await self.cluster.start()
        await self.creations.recover()

    async def run(self) -> None:
        """See to what members see to by themselves, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._care.run())
            group.create_task(self.cluster.configuration.run())
            group.create_task(self._readdress())

    async def _readdress(self) -> None:
        """Take up where the arbiter is, and have resources that are up take up where their peers are,
        whenever the configuration may have changed.
        """
        configuration = self.cluster.configuration
        while True:
            await configuration.rendered.wait()
            configuration.rendered.clear()
            self._judge()
            content = configuration.content
            for name in [] if content is None else list(content.resource):
                try:
                    await self._manager.readdress(name)
                except BlockpairError as error:
                    self._log.warning("resource.not-readdressed", resource=name, text=error.message)
                except Exception:
                    # The others, and the next change, are not lost for the sake of one.
                    self._log.exception("resource.not-readdressed", resource=name)

    def _judge(self) -> None:
        """Have the arbiter be the one that configuration and trust name now."""
        self._manager.judges.take(self.cluster.configuration.content, self._trusted)

    def methods(self) -> dict[str, Method]:
        """What the daemon's socket offers of it."""
        return {**self._methods.table(), **self._config_methods.table()}
