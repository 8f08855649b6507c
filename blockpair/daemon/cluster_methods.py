"""The daemon's RPC methods of the cluster: parameters in, results out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec import Struct

from blockpair.cluster.cluster import Cluster
from blockpair.cluster.membership import MadeToken, Membership
from blockpair.cluster.rekey import Rekey
from blockpair.cluster.removal import Removal
from blockpair.cluster.report import ClusterReport, Reporter
from blockpair.config.names import parse_address
from blockpair.daemon.changes import change
from blockpair.daemon.local import LocalResources
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method


class InitParams(Struct, forbid_unknown_fields=True):
    """The cluster's name, and where this node is reached; none: chosen, where there is only one."""

    name: str
    addresses: list[str] = []


class TokenParams(Struct, forbid_unknown_fields=True):
    """How long it lives."""

    ttl_seconds: float = 900.0


class JoinParams(Struct, forbid_unknown_fields=True):
    """A member's control port, what `cluster.token` gave there, and where this node is reached."""

    server: str
    token: str
    addresses: list[str] = []

    def __repr__(self) -> str:
        return f"JoinParams({self.server})"


class RemoveParams(Struct, forbid_unknown_fields=True):
    """A node; ``lost``: it is gone for good."""

    node: str
    lost: bool = False


class RotateParams(Struct, forbid_unknown_fields=True):
    """``ca``: a new authority for the whole cluster, not just this node's certificate."""

    ca: bool = False


class ClusterMethods:
    """The table of methods over one `Cluster`."""

    def __init__(
        self,
        cluster: Cluster,
        membership: Membership,
        removal: Removal,
        rekey: Rekey,
        reporter: Reporter,
        *,
        local: LocalResources,
    ) -> None:
        self._cluster = cluster
        self._membership = membership
        self._removal = removal
        self._rekey = rekey
        self._reporter = reporter
        self._local = local

    def table(self) -> dict[str, Method]:
        """Every method by its name."""
        return {
            "cluster.status": Method(NoParams, self._status, interruptible=True, read_only=True),
            "cluster.init": change("cluster.init", InitParams, self._init),
            "cluster.token": change("cluster.token", TokenParams, self._token),
            "cluster.join": change("cluster.join", JoinParams, self._join),
            "cluster.remove": change("cluster.remove", RemoveParams, self._remove),
            "cluster.rotate": change("cluster.rotate", RotateParams, self._rotate),
        }

    async def _status(self, _caller: Caller, _params: NoParams) -> ClusterReport:
        return await self._reporter.look()

    async def _init(self, params: InitParams) -> ClusterReport:
        await self._membership.init(params.name, params.addresses)
        return await self._reporter.look()

    async def _token(self, params: TokenParams) -> MadeToken:
        return await self._membership.token(timedelta(seconds=params.ttl_seconds))

    async def _join(self, params: JoinParams) -> Any:
        try:
            server = parse_address(params.server)
        except ValueError as error:
            raise BlockpairError(
                ErrorKind.USAGE, str(error), "write the member's control port, such as 10.0.0.1:7789"
            ) from None
        by_way_of = await self._membership.join(server, params.token, params.addresses)
        return {
            "by_way_of": by_way_of,
            "status": await self._reporter.look(),
            "copies": await self._local.copies(self._cluster.content),
        }

    async def _remove(self, params: RemoveParams) -> Any:
        return {"done": await self._removal.remove(params.node, lost=params.lost)}

    async def _rotate(self, params: RotateParams) -> Any:
        async with self._cluster.lock:
            if params.ca:
                done = await self._rekey.change(self._cluster.others(), why="asked for")
            else:
                expires = await self._rekey.renew()
                done = [f"{self._cluster.node.name} has a new certificate, good until {expires}"]
        return {"done": done}
