"""This node's membership: what it trusts, whom it calls, who may call it. The daemon owns one `Cluster`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from blockpair.cluster.change import Configuration
from blockpair.cluster.peers import Peers
from blockpair.cluster.replicate import Local
from blockpair.cluster.server import ControlServer, PeerMethod, Policy
from blockpair.cluster.store import Store
from blockpair.config.cluster import ClusterFile, control_addresses
from blockpair.config.locations import Locations
from blockpair.config.names import Address
from blockpair.config.node import NodeConfig
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust.store import Generation, TokenFile, TrustStore

JOIN_FIRST = "make a cluster: `blockpair cluster init NAME`; or join one: see `blockpair cluster join --help`"
SUCCESSOR = "let a successor of its name join: `blockpair cluster token`, then `cluster join` on {node}"
REJOIN = (
    "`blockpair cluster remove {node} --lost` on it, then join with what `blockpair cluster token` prints "
    "on {member}"
)
# What a node may call before the configuration names it: its join is not complete then.
CONFIRM = "peer.cluster.confirm"


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Cluster:
    """Membership of one node. ``local`` knows its resources; ``give_trust`` tells the replication listener
    whom to trust (None: nobody).

    ``methods``: what members may call; whoever has some to offer adds them before `start`. ``guest`` is set
    by who lets nodes join.
    """

    def __init__(
        self,
        node: NodeConfig,
        places: Locations,
        local: Local,
        give_trust: Callable[[Generation | None], Awaitable[None]],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.node = node
        self.places = places
        self.store = TrustStore(places.trust)
        self.tokens = TokenFile(places.trust / "tokens.json")
        self.now = now
        self.methods: dict[str, PeerMethod] = {}
        self.guest: Callable[[str], dict[str, PeerMethod]] = lambda _: {}
        self.peers = Peers(self.control_addresses, self.client_context)
        self.local = local
        self.configuration = Configuration(node.name, Store(places, node.name), self.peers, local)
        self.methods.update(self.configuration.methods())
        self.failure: BlockpairError | None = None
        """Why this node does not take part, though it has, or had, a cluster's trust."""
        self.closed: BlockpairError | None = None
        """Why a member's control port is not open."""
        self.lock = asyncio.Lock()
        """Held while membership or trust changes."""
        self._give_trust = give_trust
        self._generation: Generation | None = None
        self._client: ssl.SSLContext | None = None
        self._server: ControlServer | None = None
        self._closing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(part="cluster")

    @property
    def member(self) -> bool:
        """Whether this node has a cluster, and can take part in it."""
        return self._generation is not None and self.configuration.content is not None

    @property
    def generation(self) -> Generation:
        """The trust that counts. Raises `BlockpairError` on a node in no cluster."""
        if self._generation is None:
            raise self.failure or BlockpairError(
                ErrorKind.FAILED, f"{self.node.name} is in no cluster", JOIN_FIRST
            )
        return self._generation

    @property
    def content(self) -> ClusterFile:
        """The cluster's configuration. Raises `BlockpairError` on a node in no cluster."""
        _ = self.generation
        content = self.configuration.content
        if content is None:
            raise BlockpairError(ErrorKind.FAILED, f"{self.node.name} is in no cluster", JOIN_FIRST)
        return content

    @property
    def version(self) -> str:
        """The configuration's version for a person; equal on nodes that have the same."""
        history = self.configuration.history
        return "" if history is None else f"{history.head.number}-{history.head_id[:8]}"

    @property
    def confirmed(self) -> bool:
        """Whether the configuration names this node: its join is complete."""
        return self.member and self.node.name in self.content.members

    @property
    def control_port(self) -> int | None:
        """Where the control port is, while it is open."""
        return None if self._server is None else self._server.port

    def others(self) -> list[str]:
        """The other members."""
        return [name for name in self.content.members if name != self.node.name]

    def control_addresses(self, node: str) -> list[Address]:
        """Where a member takes calls. Raises `BlockpairError` for who is none."""
        entry = self.content.node.get(node)
        if entry is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"the cluster {self.content.cluster.name} has no node {node!r}",
                f"its nodes are: {', '.join(self.content.node)}",
            )
        if entry.lost:
            raise BlockpairError(
                ErrorKind.UNREACHABLE,
                f"{node} is lost: it is no member any more",
                SUCCESSOR.format(node=node),
            )
        return control_addresses(entry)

    def client_context(self) -> ssl.SSLContext:
        """For calls under the trust that counts now. Raises `BlockpairError` on a node in no cluster."""
        _ = self.generation
        assert self._client is not None
        return self._client

    async def start(self) -> None:
        """Take part, if this node has a cluster. Trust that cannot be used is told of in `failure`, and does
        not keep the daemon from its resources.
        """
        try:
            await asyncio.to_thread(self.store.tidy)
            await self.configuration.open()
            if self.configuration.failure is not None and self.configuration.content is None:
                raise self.configuration.failure
            await self.reload()
        except BlockpairError as error:
            self.failure = error
            self._log.error("cluster.failed", text=error.message, remedy=error.remedy)

    async def recover(self) -> None:
        """Take up what could not be taken up before: trust that could not be read, a control port that could
        not be opened. Raises `BlockpairError` where that is still so.
        """
        async with self.lock:
            if self.configuration.content is not None and self._generation is None:
                try:
                    await self.reload()
                except BlockpairError as error:
                    self.failure = error
                    raise
            elif self.closed is not None:
                _, server = await asyncio.to_thread(_contexts, self.generation)
                await self._open(server)
                self.check_open()

    def check_open(self) -> None:
        """Raises `BlockpairError` where a member's control port is not open."""
        if self.closed is not None:
            raise self.closed

    async def stop(self) -> None:
        """End all calls."""
        if self._server is not None:
            await self._server.close()
            self._server = None
        if self._closing is not None:
            await self._closing

    async def reload(self) -> None:
        """Take up the trust that is on the disk now. Raises `BlockpairError`, and then takes part no more."""
        self._generation = self._client = None
        try:
            generation = await asyncio.to_thread(self.store.load)
            content = self.configuration.content
            if generation is None and content is not None:
                raise BlockpairError(
                    ErrorKind.DAMAGED,
                    f"the configuration is that of the cluster {content.cluster.name}, and there is no "
                    "certificate of this node",
                    f"forget that cluster here: `blockpair cluster remove {self.node.name}`; then join again",
                )
            if generation is None or content is None:
                # The latter is what a crash in the middle of `init` or `join` leaves.
                self.failure = None
                await self._leave()
                return
            if generation.node != self.node.name:
                raise BlockpairError(
                    ErrorKind.MISMATCH,
                    f"this node is called {self.node.name}, and its certificate is that of {generation.node}",
                    f'set name = "{generation.node}" in [node] of blockpair.toml, or join under the new name',
                )
            await self._enter(generation)
        except BaseException:
            await self._leave()
            raise
        self.failure = None

    async def forget(self) -> None:
        """Be in no cluster any more. The configuration first: trust alone, which a crash then leaves, is no
        membership. Raises `BlockpairError`.
        """
        await self.configuration.leave()
        await asyncio.to_thread(self.store.forget)
        await self.reload()

    async def _enter(self, generation: Generation) -> None:
        client, server = await asyncio.to_thread(_contexts, generation)
        await self._give_trust(generation)
        self._generation, self._client = generation, client
        self._log.info("cluster.member", cluster=self.content.cluster.name)
        if self._server is not None:
            self._server.set_context(server)
        else:
            await self._open(server)

    async def _open(self, context: ssl.SSLContext) -> None:
        """Open the control port. If it cannot be, `closed` tells; what is replicated does not need it."""
        if self._closing is not None:
            await self._closing
        control = ControlServer(self.methods, Policy(self._admit, self.guest))
        try:
            await control.start(self.node.control, context)
        except BlockpairError as error:
            if self.closed is None:
                self._log.error("control.closed", text=error.message, remedy=error.remedy)
            self.closed = error
            return
        self.closed, self._server = None, control
        self._log.info("control.open", port=control.port)

    async def _leave(self) -> None:
        self._generation = self._client = self.closed = None
        await self._give_trust(None)
        if self._server is not None:
            closing, self._server = self._server, None
            # A call by another member may have led here, and closing waits for calls.
            self._closing = asyncio.create_task(closing.close())

    def _admit(self, name: str, method: str) -> None:
        if name in self.content.members or method == CONFIRM:
            return
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{name} is not a member of the cluster {self.content.cluster.name}",
            f"`blockpair cluster status` on {self.node.name} shows who is; who was removed joins again",
        )

    async def call_all(
        self,
        nodes: list[str],
        method: str,
        params: Callable[[str], Any],
        *,
        timeout: float,  # noqa: ASYNC109 - of each call
    ) -> dict[str, Any | BlockpairError]:
        """What each of ``nodes`` answers, or why it does not; asked side by side."""

        async def call(node: str) -> Any | BlockpairError:
            try:
                return await self.peers.call(node, method, params(node), timeout=timeout)
            except BlockpairError as error:
                return error

        return dict(zip(nodes, await asyncio.gather(*map(call, nodes)), strict=True))


def _contexts(generation: Generation) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    try:
        return generation.client(), generation.server()
    except OSError as error:
        raise BlockpairError(
            ErrorKind.DAMAGED,
            f"this node's certificate in {generation.directory} cannot be used: {error.strerror or error}",
            "restore it from a backup, or have the node removed and join again",
        ) from None
