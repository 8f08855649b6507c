"""How nodes go: taken out by the others, for good or to be succeeded, or leaving by themselves."""

from __future__ import annotations

import asyncio
from ssl import SSLContext

import structlog
from msgspec import Struct
from msgspec.structs import replace

from blockpair.cluster.cluster import SUCCESSOR, Cluster
from blockpair.cluster.peers import call_at
from blockpair.cluster.reach import reach
from blockpair.cluster.rekey import Rekey
from blockpair.cluster.replicate import parse_text
from blockpair.cluster.rules import Task, with_node, without_node
from blockpair.cluster.server import PeerMethod
from blockpair.config.cluster import ClusterFile
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind

_ASK_SECONDS = 3.0
_TELL_SECONDS = 3.0


class RemovedParams(Struct, forbid_unknown_fields=True):
    """The cluster that its receiver is no member of any more."""

    cluster: str


class Removal:
    """The commands that make a member none."""

    def __init__(self, cluster: Cluster, rekey: Rekey) -> None:
        self._cluster = cluster
        self._rekey = rekey
        self._log = structlog.get_logger().bind(part="cluster")
        cluster.methods["peer.cluster.removed"] = PeerMethod(RemovedParams, self._was_removed)

    async def remove(self, node: str, *, lost: bool) -> list[str]:
        """Take ``node`` out of the cluster, with a new authority for those who stay; what was done.
        ``lost``: it is gone for good, and does not answer; its place is kept if a resource has a copy on it.
        On that node itself: forget the cluster. Raises `BlockpairError`.
        """
        cluster = self._cluster
        if node == cluster.node.name:
            return await self._leave(lost=lost)
        async with cluster.lock:
            content = cluster.content
            entry = content.node.get(node)
            copies = copies_on(content, node)
            if entry is None or not entry.lost:
                addresses = cluster.control_addresses(node)
            elif lost:
                raise BlockpairError(
                    ErrorKind.EXISTS, f"{node} is marked lost already", SUCCESSOR.format(node=node)
                )
            assert entry is not None  # Its addresses were found, or it is lost.
            if lost:
                await self._check_gone(node)
            else:
                check_unnamed(content, node)
            old = cluster.client_context()
            keeps = lost and bool(copies)

            def text_without(text: str) -> str:
                if node not in parse_text(text).node:
                    return text
                return with_node(text, node, replace(entry, lost=True)) if keeps else without_node(text, node)

            done = []
            if not entry.lost:
                staying = [name for name in cluster.others() if name != node]
                done = await self._rekey.change(staying, why=f"{node} is removed")
            why = f"{node} is lost" if keeps else f"{node} was removed"
            try:
                await cluster.configuration.change(text_without, why, Task("nodes"), without=[node])
            except BlockpairError as error:
                if not done:
                    raise
                raise BlockpairError(
                    error.kind,
                    f"{node} is refused from now on: the cluster has a new authority. But the configuration "
                    f"still names it: {error.message}",
                    f"repeat: blockpair cluster remove {node}{' --lost' if lost else ''}",
                ) from None
            self._log.info("cluster.node-lost" if keeps else "cluster.node-removed", node=node)
            if keeps:
                done.append(
                    f"{node} is no member any more; its place, with its copy of {', '.join(copies)}, is "
                    "kept: " + SUCCESSOR.format(node=node)
                )
            elif entry.lost:
                done.append(f"the place of {node} is gone")
            elif not lost:
                done.append(await self._tell(addresses, node, old, content.cluster.id))
            return done

    async def _tell(self, addresses: list[Address], node: str, old: SSLContext, cluster: str) -> str:
        try:
            params = RemovedParams(cluster)
            await call_at(addresses, node, old, "peer.cluster.removed", params, timeout=_TELL_SECONDS)
        except BlockpairError as error:
            return (
                f"{node} was not told ({error.message}); it is refused all the same. Before it can join "
                f"again: `blockpair cluster remove {node}` there"
            )
        return f"{node} was told, and is in no cluster any more"

    async def _check_gone(self, node: str) -> None:
        """Raises `BlockpairError` while there is any sign of life of ``node``."""
        cluster = self._cluster
        if resources := await cluster.local.connected(node):
            sign = f"{', '.join(resources)} replicates with it at this moment"
        elif await self._answers(node):
            sign = "it answers"
        elif address := await _listening(cluster.control_addresses(node)):
            sign = f"something listens at its control port {address}, though it does not prove to be it"
        else:
            return
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{node} is not lost: {sign}",
            f"take its copies away first, as `blockpair cluster remove {node}` says; or, if it must go as it "
            f"is, switch it off, cut it from the network, or have it leave (`blockpair cluster remove {node} "
            "--lost` there), and repeat",
        )

    async def _answers(self, node: str) -> bool:
        try:
            await self._cluster.peers.call(node, "peer.cluster.hello", {}, timeout=_ASK_SECONDS)
        except BlockpairError as error:
            return error.kind is not ErrorKind.UNREACHABLE
        return True

    async def _leave(self, *, lost: bool) -> list[str]:
        """Forget the cluster here; ``lost``: though there are copies here, because the others have let go of
        this node.
        """
        cluster = self._cluster
        node = cluster.node.name
        async with cluster.lock:
            content = cluster.configuration.content
            if content is None:
                raise BlockpairError(
                    ErrorKind.NOT_FOUND, f"{node} is in no cluster", "there is nothing to forget"
                )
            copies = copies_on(content, node)
            if not lost:
                check_unnamed(content, node)
            else:
                await self._check_let_go(copies)
            await cluster.forget()
            self._log.info("cluster.left", cluster=content.cluster.name)
            others = [name for name in content.members if name != node]
            done = [f"{node} has forgotten the cluster {content.cluster.name}"]
            if lost and copies:
                done.append(
                    f"its copy of {', '.join(copies)} is as it was; under the same name it can join again, "
                    "and is brought up to date then"
                )
            elif others:
                done.append(
                    f"for {', '.join(others)} it is still a member, with a certificate that counts: there, "
                    f"`blockpair cluster remove {node}`"
                )
            return done

    async def _check_let_go(self, copies: list[str]) -> None:
        """Raises `BlockpairError` while a copy here is up, or a member still takes this node for one."""
        cluster = self._cluster
        for name in copies:
            if cluster.configuration.is_up(name):
                raise BlockpairError(ErrorKind.IN_USE, f"{name} is up here", f"blockpair down {name}")
        if not cluster.member:
            return
        for other in cluster.others():
            if await self._answers(other):
                raise BlockpairError(
                    ErrorKind.UNSAFE,
                    f"{cluster.node.name} is not lost: for {other} it is a member",
                    f"take its copies away first, as `blockpair cluster remove {cluster.node.name}` says",
                )

    async def _was_removed(self, caller: str, params: RemovedParams) -> bool:
        cluster = self._cluster
        async with cluster.lock:
            content = cluster.content
            if params.cluster != content.cluster.id:
                raise BlockpairError(ErrorKind.MISMATCH, "that is another cluster", "see its id")
            check_unnamed(content, cluster.node.name)
            self._log.warning("cluster.removed", by=caller, cluster=content.cluster.name)
            await cluster.forget()
            return True


async def _listening(addresses: list[Address]) -> Address | None:
    """One of ``addresses`` where a connection is taken."""
    found = await asyncio.gather(*(reach(address, _ASK_SECONDS) for address in addresses))
    taken = (address for address, way in zip(addresses, found, strict=True) if way.why is None)
    return next(taken, None)


def copies_on(content: ClusterFile, node: str) -> list[str]:
    """The resources that have a copy on ``node``."""
    return [name for name, resource in content.resource.items() if node in resource.on]


def check_unnamed(content: ClusterFile, node: str) -> None:
    """Raises `BlockpairError` while a resource has a copy on ``node``."""
    copies = copies_on(content, node)
    if copies:
        first = copies[0]
        raise BlockpairError(
            ErrorKind.IN_USE,
            f"{node} has a copy of {', '.join(copies)}",
            f"delete it first: `blockpair down {first}` on both nodes, then `blockpair delete {first}`; the "
            f"data stays on the devices. If {node} is gone for good: `blockpair cluster remove {node} "
            "--lost` keeps its place for a successor",
        )
