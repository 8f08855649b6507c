"""What a witness's own socket offers, to the command line on its machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import Struct

from blockpair.arbiter.witness.clusters import Clusters, Membership
from blockpair.arbiter.witness.commits import Commits
from blockpair.arbiter.witness.join import join
from blockpair.arbiter.witness.register import ForgetOperation, Row
from blockpair.arbiter.witness.server import WitnessServer
from blockpair.config.names import parse_address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method
from blockpair.trust import authority as ca
from blockpair.trust import tokens


class JoinParams(Struct, forbid_unknown_fields=True):
    """A member's control port, and what `blockpair cluster token` printed there."""

    server: str
    token: str

    def __repr__(self) -> str:
        return f"JoinParams({self.server})"


class ForgetParams(Struct, forbid_unknown_fields=True):
    """A resource's name or id; ``cluster``: the name or id of its cluster, where that is not plain."""

    resource: str
    cluster: str = ""


class LeaveParams(Struct, forbid_unknown_fields=True):
    """A cluster's name or id."""

    cluster: str


class Methods:
    """All of them."""

    def __init__(
        self, clusters: Clusters, commits: Commits, port: WitnessServer, now: Callable[[], datetime]
    ) -> None:
        self._clusters = clusters
        self._commits = commits
        self._port = port
        self._now = now
        self._log = structlog.get_logger().bind(part="witness")

    def table(self) -> dict[str, Method]:
        """By name."""
        return {
            "witness.status": Method(NoParams, self._status, interruptible=True, read_only=True),
            "witness.join": Method(JoinParams, self._join),
            "witness.find": Method(ForgetParams, self._find, interruptible=True, read_only=True),
            "witness.forget": Method(ForgetParams, self._forget),
            "witness.leave": Method(LeaveParams, self._leave),
        }

    async def _status(self, _: Caller, __: NoParams) -> Any:
        rows = await self._commits.rows()
        served = {member.cluster: member for member in self._clusters.all()}
        # What is kept of a cluster that is served no more can be forgotten only by who sees it.
        ids = sorted({*served, *(row.cluster for row in rows)})
        return {
            "port": self._port.port,
            "clusters": [
                self._cluster(id_, served.get(id_), [row for row in rows if row.cluster == id_])
                for id_ in ids
            ],
        }

    def _cluster(self, id_: str, member: Membership | None, rows: list[Row]) -> dict[str, Any]:
        nodes = {node: at for (cluster, node), at in self._port.contacts.items() if cluster == id_}
        return {
            "id": id_,
            "name": member.name if member else None,
            "certificate_expires": ca.inspect(member.certificate).not_after.isoformat() if member else None,
            "nodes": [{"name": node, "last_contact": _time(nodes[node])} for node in sorted(nodes)],
            "resources": [
                {
                    "name": row.name,
                    "id": row.resource,
                    **row.configuration.document(),
                    "changed": _time(row.changed_ns),
                    "changed_by": row.changed_by,
                }
                for row in rows
            ],
        }

    async def _join(self, caller: Caller, params: JoinParams) -> Any:
        try:
            server = parse_address(params.server)
        except ValueError as error:
            raise BlockpairError(
                ErrorKind.USAGE, str(error), "write the address that `blockpair cluster token` prints"
            ) from None
        try:
            token = tokens.parse_token(params.token)
        except ValueError as error:
            raise BlockpairError(
                ErrorKind.USAGE,
                f"that is no join token: {error}",
                "copy the whole token that `blockpair cluster token` printed",
            ) from None
        member = await join(server, token, self._now())
        await asyncio.to_thread(self._clusters.keep, member)
        self._port.end(member.cluster)
        self._log.info("cluster.joined", cluster=member.name, id=member.cluster, uid=caller.uid)
        return {"cluster": member.name, "id": member.cluster, "port": self._port.port}

    async def _find(self, _: Caller, params: ForgetParams) -> Any:
        return self._told(await self._one(params))

    async def _forget(self, caller: Caller, params: ForgetParams) -> Any:
        row = await self._one(params)
        await self._commits.submit(ForgetOperation(row.cluster, row.resource))
        told = self._told(row)
        self._log.info("register.forgotten", uid=caller.uid, **told)
        return told

    def _told(self, row: Row) -> dict[str, Any]:
        return {
            "cluster": self._name(row.cluster) or row.cluster,
            "resource": row.name,
            "id": row.resource,
            **row.configuration.document(),
        }

    async def _one(self, params: ForgetParams) -> Row:
        """The only resource that is meant. Raises `BlockpairError`."""
        found = [
            row
            for row in await self._commits.rows()
            if params.resource in (row.name, row.resource)
            and params.cluster in ("", row.cluster, self._name(row.cluster))
        ]
        if not found:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"this witness keeps nothing of a resource {params.resource!r}"
                + (f" of the cluster {params.cluster!r}" if params.cluster else ""),
                "see `blockpair witness status`",
            )
        if len(found) > 1:
            raise BlockpairError(
                ErrorKind.USAGE,
                f"{params.resource} may be one of {len(found)} resources",
                "say which one, by its id in `blockpair witness status --json` or with --cluster",
            )
        return found[0]

    async def _leave(self, caller: Caller, params: LeaveParams) -> Any:
        found = [one for one in self._clusters.all() if params.cluster in (one.name, one.cluster)]
        if len(found) != 1:
            raise BlockpairError(
                ErrorKind.USAGE if found else ErrorKind.NOT_FOUND,
                f"this witness serves {len(found) or 'no'} clusters {params.cluster!r}",
                "say which one, by its id in `blockpair witness status --json`",
            )
        await asyncio.to_thread(self._clusters.leave, found[0].cluster)
        self._port.end(found[0].cluster)
        self._log.info("cluster.left", cluster=found[0].name, id=found[0].cluster, uid=caller.uid)
        return {"cluster": found[0].name, "id": found[0].cluster}

    def _name(self, cluster: str) -> str | None:
        member = self._clusters.get(cluster)
        return None if member is None else member.name


def _time(ns: int) -> str:
    # UTC, to the second.
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
