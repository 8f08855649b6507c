"""How a cluster begins, and how nodes come."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from blockpair.cluster.cluster import CONFIRM, Cluster
from blockpair.cluster.history import Relation, Version, history_of, relation
from blockpair.cluster.joining import conversation, greet, understood
from blockpair.cluster.local_addresses import default_addresses
from blockpair.cluster.peers import call_at, exchange
from blockpair.cluster.rules import Task, with_node
from blockpair.cluster.server import PeerMethod
from blockpair.cluster.tls import TlsStream
from blockpair.config.cluster import ClusterFile, ClusterTable, NodeEntry, check_cluster, cluster_text
from blockpair.config.files import ConfigError, write_atomically
from blockpair.config.names import Address, check_host, check_name
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority, tokens
from blockpair.trust.authority import Authority, TrustError
from blockpair.trust.join import (
    NONCE_BYTES,
    Doorkeeper,
    HelloAnswer,
    HelloParams,
    Joiner,
    RequestAnswer,
    RequestParams,
    WitnessAnswer,
    WitnessParams,
)
from blockpair.trust.store import Generation
from blockpair.units import utc

_ANSWER_SECONDS = 30.0
_AGAIN_SECONDS = 0.2
_BOTH = "nodes"


@dataclass(frozen=True)
class MadeToken:
    """A token for a person: ``text``, when it expires, and where the joining node finds this one."""

    text: str = field(repr=False)
    expires: str
    authority_sha256: str
    address: str


class AbandonParams(Struct, forbid_unknown_fields=True):
    """Why a joining node goes no further."""

    reason: str


class Membership:
    """The commands that make a member of a node. ``replication_port``: where this node listens for peers."""

    def __init__(self, cluster: Cluster, replication_port: int) -> None:
        self._cluster = cluster
        self._replication_port = replication_port
        self._log = structlog.get_logger().bind(part="cluster")
        cluster.guest = self._guest
        cluster.methods[CONFIRM] = PeerMethod(NodeEntry, self._confirmed)

    # -- A new cluster

    async def init(self, name: str, addresses: list[str]) -> None:
        """Make a cluster of this node alone. Raises `BlockpairError`, and then nothing was changed."""
        cluster = self._cluster
        async with cluster.lock:
            self._check_alone()
            node = cluster.node.name
            try:
                check_name(name)
                authority.check_member_name(node)
            except ValueError as error:
                raise BlockpairError(
                    ErrorKind.USAGE,
                    str(error),
                    "choose another name; a node's is in [node] of blockpair.toml",
                ) from None
            entry = self._entry(addresses, None)
            content = ClusterFile(ClusterTable(name, str(uuid.uuid4())), {node: entry})
            _check_entry(content, node)
            now = cluster.now()
            made, key = authority.new_authority(name, now), authority.new_key()
            certificate = authority.issue(made, authority.new_request(node, key), node, now)
            try:
                await asyncio.to_thread(cluster.store.replace, made, certificate, key)
                await cluster.configuration.begin(cluster_text(content), f"the cluster {name} was begun")
                await cluster.reload()
                cluster.check_open()
            except BaseException:
                await cluster.forget()
                raise
            self._log.info("cluster.begun", cluster=name, node=node)

    async def token(self, life: timedelta) -> MadeToken:
        """A token that lets one node in. Raises `BlockpairError`."""
        cluster = self._cluster
        async with cluster.lock:
            generation, now = cluster.generation, cluster.now()
            entry = cluster.content.node.get(cluster.node.name)
            if entry is None or not cluster.confirmed:
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"{cluster.node.name} has not completed its own join yet",
                    "see `blockpair cluster status`",
                )
            made = tokens.new_token(authority.fingerprint(generation.authority.certificate))
            book = tokens.added(await asyncio.to_thread(cluster.tokens.load), made, life, now)
            await asyncio.to_thread(cluster.tokens.save, book)
            self._log.info("token.made", token=made.id, expires=book.tokens[made.id].expires.isoformat())
            return MadeToken(
                made.text(),
                utc(book.tokens[made.id].expires, "seconds"),
                made.authority.hex(),
                str(Address(entry.addresses[0], entry.control_port)),
            )

    # -- The joining node's side

    async def join(self, member: Address, text: str, addresses: list[str]) -> str:
        """Join the cluster that gave the token out, by way of the control port of a member; that member's
        name. Raises `BlockpairError`, and then nothing was changed, unless it says so.
        """
        cluster = self._cluster
        async with cluster.lock:
            self._check_alone()
            token = _token(text)
            try:
                authority.check_member_name(cluster.node.name)
            except ValueError as error:
                raise BlockpairError(
                    ErrorKind.USAGE, str(error), "set another name in [node] of blockpair.toml"
                ) from None
            async with conversation(member) as stream:
                name, entry, answer, key = await self._ask(stream, token, addresses)
            made = Authority(answer.authority, answer.authority_key)
            try:
                await asyncio.to_thread(write_atomically, self._joining_file, _entry_text(entry))
                await asyncio.to_thread(cluster.store.replace, made, answer.certificate, key)
                await self._adopt(answer.configuration)
                await cluster.reload()
                cluster.check_open()
                await self._confirm_patiently([member], name, entry)
            except BlockpairError as error:
                if error.kind not in (ErrorKind.UNREACHABLE, ErrorKind.BUSY):
                    await cluster.forget()
                    raise
                raise BlockpairError(
                    error.kind,
                    f"the certificate is here, and {name} could not be told: {error.message}",
                    "this node goes on trying by itself: see `blockpair cluster status`; or give it up: "
                    f"`blockpair cluster remove {cluster.node.name}`",
                ) from None
            except BaseException:
                await cluster.forget()
                raise
            self._log.info("cluster.joined", cluster=cluster.content.cluster.name, by_way_of=name)
            return name

    async def _ask(
        self, stream: TlsStream, token: tokens.Token, addresses: list[str]
    ) -> tuple[str, NodeEntry, RequestAnswer, str]:
        """The member's name, this node's entry, what was issued and its key."""
        cluster = self._cluster
        key = authority.new_key()
        joiner = Joiner(token, cluster.node.name, key, secrets.token_bytes(NONCE_BYTES))
        leaf = await greet(stream, joiner, cluster.now(), both=_BOTH)
        entry = self._entry(addresses, stream.local_host())
        asked = joiner.request(entry.addresses, entry.port, entry.control_port)
        answer = await exchange(stream, "join.request", asked)
        issued = understood(RequestAnswer, answer, both=_BOTH)
        joiner.accept(issued, cluster.now())
        return authority.certified_name(leaf), entry, issued, key

    async def _confirm_patiently(self, addresses: list[Address], member: str, entry: NodeEntry) -> None:
        """Like `_confirm`; while somebody else changes the cluster there, it is tried again for a time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ANSWER_SECONDS
        while True:
            try:
                return await self._confirm(addresses, member, entry)
            except BlockpairError as error:
                if error.kind is not ErrorKind.BUSY or loop.time() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _confirm(self, addresses: list[Address], member: str, entry: NodeEntry) -> None:
        cluster = self._cluster
        answer = await call_at(
            addresses, member, cluster.client_context(), CONFIRM, entry, timeout=_ANSWER_SECONDS
        )
        await self._adopt(answer)
        await asyncio.to_thread(self._joining_file.unlink, missing_ok=True)

    async def confirm(self) -> None:
        """Complete a join that was cut off after this node had its certificate. Raises `BlockpairError`."""
        cluster = self._cluster
        async with cluster.lock:
            if not cluster.member or cluster.confirmed:
                return
            entry = await asyncio.to_thread(self._remembered_entry)
            failures = []
            for member in cluster.others():
                addresses = cluster.control_addresses(member)
                try:
                    await self._confirm(addresses, member, entry)
                except BlockpairError as error:
                    failures.append(error)
                else:
                    self._log.info("cluster.joined", cluster=cluster.content.cluster.name, by_way_of=member)
                    return
            if failures:
                raise failures[0]

    def _export(self) -> list[Version]:
        """The configuration's whole history, for a node that joins."""
        history = self._cluster.configuration.history
        return [] if history is None else list(history.versions)

    async def _adopt(self, exported: Any) -> None:
        """Take a history that a member exported, unless this node has it or went on from there."""
        configuration = self._cluster.configuration
        try:
            theirs = history_of(understood(list[Version], exported, both=_BOTH))
        except ValueError as error:
            raise BlockpairError(
                ErrorKind.DAMAGED, f"the member's configuration: {error}", "see that node's status"
            ) from None
        ours = configuration.history
        if ours is None or relation(ours, theirs) is Relation.BEHIND:
            await configuration.adopt(theirs)

    @property
    def _joining_file(self) -> Path:
        """This node's entry, between its certificate and the confirmation of its join."""
        return self._cluster.places.state / "joining.json"

    def _remembered_entry(self) -> NodeEntry:
        try:
            return msgspec.json.decode(self._joining_file.read_bytes(), type=NodeEntry)
        except (OSError, msgspec.DecodeError) as error:
            raise BlockpairError(
                ErrorKind.DAMAGED,
                f"how this node wanted to join is not known any more: {self._joining_file}: {error}",
                f"give it up: `blockpair cluster remove {self._cluster.node.name}`; then join again",
            ) from None

    # -- The member's side

    def _guest(self, remote: str) -> dict[str, PeerMethod]:
        """For one connection of a node that has no certificate yet."""
        cluster = self._cluster
        generation = cluster.generation
        keeper = Doorkeeper(
            authority.der(generation.certificate),
            generation.authority.certificate,
            secrets.token_bytes(NONCE_BYTES),
        )

        async def hello(_: str, params: HelloParams) -> HelloAnswer:
            return keeper.hello(params, await asyncio.to_thread(cluster.tokens.load), cluster.now())

        async def request(_: str, params: RequestParams) -> RequestAnswer:
            async with cluster.lock:
                await self._check_settled(generation)
                return await self._admit(keeper, params, remote)

        async def witness(_: str, params: WitnessParams) -> WitnessAnswer:
            async with cluster.lock:
                await self._check_settled(generation)
                return await self._admit_witness(keeper, params, remote)

        async def abandon(_: str, params: AbandonParams) -> None:
            # Logged as every refusal is: no oftener than a stranger may.
            raise BlockpairError(
                ErrorKind.FAILED, f"the joining node gave up: {params.reason[:200]!r}", "see its own message"
            )

        return {
            "join.hello": PeerMethod(HelloParams, hello),
            "join.request": PeerMethod(RequestParams, request),
            "join.witness": PeerMethod(WitnessParams, witness),
            "join.abandon": PeerMethod(AbandonParams, abandon),
        }

    async def _check_settled(self, proved_to: Generation) -> None:
        """Raises `BlockpairError` where the authority that a caller was proved to does not count any more, or
        soon may not. The lock is held, which the caller may have waited for.
        """
        cluster = self._cluster
        if proved_to.authority.certificate != cluster.generation.authority.certificate:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                "the cluster's authority was changed meanwhile: who was let in before is not any more",
                "join with a new token: `blockpair cluster token` on a member",
            )
        if await asyncio.to_thread(cluster.store.staged) is not None:
            raise BlockpairError(
                ErrorKind.BUSY, "the cluster's authority is being changed", "try again in a moment"
            )

    async def _admit(self, keeper: Doorkeeper, params: RequestParams, remote: str) -> RequestAnswer:
        cluster = self._cluster
        generation, now = cluster.generation, cluster.now()
        book = await asyncio.to_thread(cluster.tokens.load)
        token_id = keeper.request(params, book, now)
        if params.name in cluster.content.members:
            raise BlockpairError(
                ErrorKind.EXISTS,
                f"the cluster {cluster.content.cluster.name} has a node {params.name} already",
                "set another name in [node] of the joining node's blockpair.toml, or remove the old one "
                f"first: `blockpair cluster remove {params.name}` on {cluster.node.name} "
                "(`--lost` if it is gone for good)",
            )
        self._with(params.name, NodeEntry(params.addresses, params.port, params.control_port))
        try:
            certificate = authority.issue(generation.authority, params.request, params.name, now)
        except TrustError as error:
            raise BlockpairError(
                ErrorKind.INVALID, f"the request: {error}", "use blockpair to join"
            ) from None
        # Before anything leaves this node: a crash may waste a token, and never lets two nodes in with it.
        await asyncio.to_thread(cluster.tokens.save, tokens.used(book, token_id, params.name, now))
        self._log.info("join.admitted", node=params.name, token=token_id, remote=remote)
        return RequestAnswer(
            certificate,
            generation.authority.certificate,
            generation.authority.key,
            self._export(),
        )

    async def _admit_witness(self, keeper: Doorkeeper, params: WitnessParams, remote: str) -> WitnessAnswer:
        cluster = self._cluster
        generation, now, table = cluster.generation, cluster.now(), cluster.content.cluster
        book = await asyncio.to_thread(cluster.tokens.load)
        token_id = keeper.proved(params.secret, book, now)
        try:
            certificate = authority.issue_witness(generation.authority, params.request, table.id, now)
        except TrustError as error:
            raise BlockpairError(
                ErrorKind.INVALID, f"the request: {error}", "use blockpair to join"
            ) from None
        # As for a node: a crash may waste a token, and never lets two in with it.
        await asyncio.to_thread(cluster.tokens.save, tokens.used(book, token_id, authority.WITNESS, now))
        self._log.info("join.witness-admitted", token=token_id, remote=remote)
        return WitnessAnswer(certificate, generation.authority.certificate, table.id, table.name)

    async def _confirmed(self, caller: str, entry: NodeEntry) -> Any:
        """A node with a certificate completes its join."""
        cluster = self._cluster
        proved_to = cluster.generation
        async with cluster.lock:
            await self._check_settled(proved_to)
            known = cluster.content.node.get(caller)
            if known is not None and known.lost:
                # A successor takes the place.
                known = None
            entry = NodeEntry(entry.addresses, entry.port, entry.control_port)
            if known is not None and known != entry:
                raise BlockpairError(
                    ErrorKind.EXISTS,
                    f"the cluster has a node {caller} already, at {', '.join(known.addresses)}",
                    "give the joining node another name, or remove the old one first",
                )
            if known is None:
                self._with(caller, entry)
                await cluster.configuration.change(
                    lambda text: with_node(text, caller, entry), f"{caller} joined", Task("nodes")
                )
                self._log.info("cluster.node-added", node=caller, addresses=entry.addresses)
            return self._export()

    def _with(self, name: str, entry: NodeEntry) -> None:
        """Raises `BlockpairError` where the configuration could not have that node."""
        _check_entry(_joined(self._cluster.content, name, entry), name)

    # -- Common

    def _check_alone(self) -> None:
        content = self._cluster.configuration.content
        if content is not None:
            node = self._cluster.node.name
            raise BlockpairError(
                ErrorKind.EXISTS,
                f"{node} is a node of the cluster {content.cluster.name} already",
                f"to leave that one: `blockpair cluster remove {node}` here, and on one of its other members",
            )

    def _entry(self, addresses: list[str], local: str | None) -> NodeEntry:
        """This node as the configuration has it. Raises `BlockpairError`."""
        for host in addresses:
            try:
                check_host(host)
            except ValueError as error:
                raise BlockpairError(
                    ErrorKind.USAGE, f"--address: {error}", "write it as --address 10.0.0.1, without a port"
                ) from None
        listening = [self._cluster.node.control.host, self._cluster.node.listen.host]
        found = addresses or default_addresses(listening, local)
        return NodeEntry(found, self._replication_port, self._cluster.node.control.port)


def _entry_text(entry: NodeEntry) -> str:
    return msgspec.json.encode(entry).decode() + "\n"


def _token(text: str) -> tokens.Token:
    try:
        return tokens.parse_token(text)
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.USAGE,
            f"that is no join token: {error}",
            "copy the whole command that `blockpair cluster token` printed",
        ) from None


def _joined(content: ClusterFile, name: str, entry: NodeEntry) -> ClusterFile:
    return replace(content, node={**content.node, name: entry})


def _check_entry(content: ClusterFile, node: str) -> None:
    try:
        check_cluster(content, Path("cluster.toml"))
    except ConfigError as error:
        raise BlockpairError(
            ErrorKind.CONFIG, f"{node} does not fit: {error.key}: {error.reason}", error.remedy
        ) from None
