"""What this node's daemon knows of its resources, for the cluster's configuration."""

from __future__ import annotations

import asyncio

from blockpair import bridge
from blockpair.cluster.rules import Task, moved
from blockpair.config.cluster import ClusterFile, resource_on
from blockpair.config.resource import resource_config
from blockpair.daemon import provision
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError


class LocalResources:
    """The daemon's side of `blockpair.cluster.replicate.Local`."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def is_up(self, name: str) -> bool:
        """Whether a resource runs or shall run."""
        return self._manager.is_up(name)

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        """Raises `BlockpairError` where this node's devices do not allow the change."""
        node = self._manager.node.name
        if task.kind == "create" and node in new.resource[task.resource].on:
            content = resource_on(new, task.resource, node)
            await asyncio.to_thread(
                provision.check_copy, self._manager, task.resource, content, force=task.force
            )
        for name in moved(old, new, node):
            if (task.kind, task.resource) == ("move", name):
                content = resource_on(new, name, node)
                await asyncio.to_thread(
                    provision.check_copy, self._manager, name, content, force=task.force, anew=True
                )
            else:
                await asyncio.to_thread(self._check_moved, new, name)

    async def connected(self, node: str) -> list[str]:
        """The resources that replicate with ``node`` at this moment."""
        found = []
        for name in filter(self._manager.is_up, self._manager.names()):
            engine = (await self._manager.report(name)).engine
            peers = [] if engine is None else engine.peers
            if any(peer.name == node and peer.connection == "Connected" for peer in peers):
                found.append(name)
        return found

    def _check_moved(self, new: ClusterFile, name: str) -> None:
        """A copy that was moved, device or metadata, must be where the configuration will say."""
        node = self._manager.node.name
        file = self._manager.places.resource_file(name)
        config = resource_config(resource_on(new, name, node), file, node)
        try:
            bridge.read_metadata(config, dump=False)
        except BlockpairError as error:
            error.remedy = (
                f"move the copy of {name} there before; or begin a fresh one there, synced from the other "
                f"node: blockpair create {name} --anew --device PATH (on {node})"
            )
            raise
