"""What this node's daemon knows of its resources, for the cluster's configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from msgspec import Struct

from blockpair import bridge
from blockpair.cluster.removal import copies_on
from blockpair.cluster.rules import Task, moved
from blockpair.config.cluster import ClusterFile, resource_on
from blockpair.config.names import Address
from blockpair.config.node import NodeConfig
from blockpair.config.resource import resource_config
from blockpair.daemon import provision
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind


class OwnCopy(Struct, frozen=True):
    """This node's copy of a resource of the cluster: "up", "present" on its disk, or "absent"."""

    name: str
    state: Literal["up", "present", "absent"]


class LocalResources:
    """The daemon's side of `blockpair.cluster.replicate.Local`."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def is_up(self, name: str) -> bool:
        """Whether a resource runs or shall run."""
        return self._manager.is_up(name)

    async def copies(self, content: ClusterFile) -> list[OwnCopy]:
        """The copies that the configuration has on this node, as they are here. Reads disks."""
        node = self._manager.node.name
        looks = (asyncio.to_thread(self._copy, name) for name in copies_on(content, node))
        return list(await asyncio.gather(*looks))

    def _copy(self, name: str) -> OwnCopy:
        if self._manager.is_up(name):
            return OwnCopy(name, "up")
        try:
            bridge.read_metadata(self._manager.config(name), dump=False)
        except BlockpairError:
            return OwnCopy(name, "absent")
        return OwnCopy(name, "present")

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        """Raises `BlockpairError` where this node's devices or ports do not allow the change."""
        node = self._manager.node.name
        if task.kind == "edit":
            check_ports(old, new, self._manager.node, self._manager.places.node_file)
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


def check_ports(old: ClusterFile, new: ClusterFile, node: NodeConfig, file: Path) -> None:
    """Raises `BlockpairError` where others would look for ``node`` at a port that it does not listen on;
    ``file`` is where it says what it listens on.
    """
    before, after = old.node.get(node.name), new.node.get(node.name)
    if before is None or after is None:
        return
    for key, was, port, own, at in (
        ("port", before.port, after.port, "listen", node.listen),
        ("control_port", before.control_port, after.control_port, "control", node.control),
    ):
        # Port 0 is any free one: which, is not known here.
        if port != was and port != at.port != 0:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"node.{node.name}.{key}: {node.name} does not listen on port {port}: "
                f'it has {own} = "{at}" in [node] of {file}',
                f'first write {own} = "{Address(at.host, port)}" there, on {node.name}, and restart its '
                "blockpaird; then repeat",
            )
