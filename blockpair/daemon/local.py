"""What this node's daemon knows of its resources, for the cluster's configuration."""

from __future__ import annotations

from blockpair.cluster.rules import Task
from blockpair.config.cluster import ClusterFile
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind


class LocalResources:
    """The daemon's side of `blockpair.cluster.replicate.Local`."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def is_up(self, name: str) -> bool:
        """Whether a resource runs or shall run."""
        return self._manager.is_up(name)

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        """Raises `BlockpairError` where this node's devices do not allow the change."""
        if task.kind != "nodes":
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{self._manager.node.name} changes only the nodes of a configuration",
                "run the same version of blockpair on all nodes",
            )
