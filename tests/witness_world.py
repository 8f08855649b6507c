"""A cluster's nodes and a witness that serves it, in one process: real TLS, a real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from blockpair.arbiter.interface import Key
from blockpair.arbiter.witness.client import WitnessArbiter
from blockpair.arbiter.witness.clusters import Clusters, Membership
from blockpair.arbiter.witness.commits import Commits
from blockpair.arbiter.witness.register import Register
from blockpair.arbiter.witness.server import WitnessServer
from blockpair.arbiter.witness.trust import NodeTrust
from blockpair.config.names import Address
from blockpair.trust import authority as ca
from blockpair.trust.authority import Authority
from blockpair.trust.store import TrustStore

EAST = "11111111-2222-3333-4444-555555555555"
WEST = "99999999-2222-3333-4444-555555555555"
R0 = Key(EAST, "0" * 31 + "1", "r0")


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class ClusterTrust:
    """A cluster, its authority, and its nodes' trust stores."""

    def __init__(self, base: Path, name: str = "east", id_: str = EAST) -> None:
        self.base = base / f"cluster-{name}"
        self.name, self.id = name, id_
        self.authority = ca.new_authority(name, now())

    def store(self, node: str) -> TrustStore:
        """A node's."""
        return TrustStore(self.base / node)

    def admit(self, node: str, authority: Authority | None = None) -> NodeTrust:
        """Give a node a certificate of the authority that counts, or of another one."""
        made, key = authority or self.authority, ca.new_key()
        certificate = ca.issue(made, ca.new_request(node, key), node, now())
        self.store(node).replace(made, certificate, key)
        return self.trust(node)

    def trust(self, node: str) -> NodeTrust:
        """What a node's arbiter is made with."""
        return NodeTrust(self.store(node), self.id, now)

    def rekey(self, *nodes: str) -> None:
        """A new authority, and certificates of it for ``nodes``."""
        self.authority = ca.new_authority(self.name, now())
        for node in nodes:
            self.admit(node)

    def witness(self) -> Membership:
        """As it is when a witness has just joined."""
        key = ca.new_key()
        request = ca.new_request(ca.WITNESS, key)
        certificate = ca.issue_witness(self.authority, request, self.id, now())
        return Membership(self.id, self.name, self.authority.certificate, certificate, key)


class Witness:
    """A witness whose port is open."""

    def __init__(self, clusters: Clusters, server: WitnessServer, commits: Commits) -> None:
        self.clusters, self.server, self.commits = clusters, server, commits

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self.server.port is not None
        return Address("127.0.0.1", self.server.port)

    def arbiter(self, trust: NodeTrust, *, call_seconds: float = 10.0) -> WitnessArbiter:
        """A node's way to it."""
        return WitnessArbiter(self.address, trust, call_seconds=call_seconds)


@contextlib.asynccontextmanager
async def witness(base: Path, *members: Membership, port: int = 0) -> AsyncIterator[Witness]:
    """One that keeps what it has below ``base``, and serves ``members`` beside what it served before."""
    clusters = Clusters(base / "clusters")
    assert clusters.load() == []
    for member in members:
        clusters.keep(member)
    register = Register(base / "registers.sqlite")
    commits = Commits(register)
    server = WitnessServer(clusters, commits, now)
    committing = asyncio.create_task(commits.run())
    try:
        await server.start(Address("127.0.0.1", port))
        yield Witness(clusters, server, commits)
    finally:
        await server.close()
        committing.cancel()
        await asyncio.wait({committing})
        register.close()
