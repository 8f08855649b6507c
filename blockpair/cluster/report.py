"""What a member knows of its cluster, and what of it needs attention. Pure, but for `look`, which asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from blockpair import __version__
from blockpair.cluster.cluster import REJOIN, Cluster
from blockpair.cluster.peers import NotTrusted
from blockpair.cluster.rekey import Rekey
from blockpair.cluster.server import PeerMethod
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.messages import NoParams
from blockpair.trust import authority
from blockpair.units import utc

SCHEMA = "blockpair.cluster/1"
_ASK_SECONDS = 3.0
_SOON = timedelta(days=30)


class Hello(Struct, frozen=True):
    """What a member says of itself. ``configuration``: its version; ``certificate_expires``: RFC 3339."""

    node: str
    version: str
    configuration: str
    certificate_expires: str


class MemberReport(Struct, frozen=True):
    """A node as this one sees it. ``why``: it is not reachable; ``seconds``: what the call took; ``lost``: it
    is no member any more, and its place is kept.
    """

    name: str
    addresses: list[str]
    port: int
    control_port: int
    here: bool
    reachable: bool
    why: str | None = None
    seconds: float = 0.0
    version: str | None = None
    configuration: str | None = None
    certificate_expires: str | None = None
    lost: bool = False


class ArbiterLook(Struct, frozen=True):
    """Whether the cluster's arbiter answers. ``why``: it does not; ``seconds``: what the question took."""

    kind: str
    place: str
    reachable: bool
    why: str | None = None
    seconds: float = 0.0


class ClusterReport(Struct, frozen=True, kw_only=True):
    """``arbiter`` is null where there is none. ``state``: "member", "joining" (it has its certificate, and no
    member has confirmed it yet), "failed" (its trust cannot be used: ``failure``) or "none". ``closed``: why
    its control port is. Fingerprints are SHA-256 in hexadecimal.
    """

    schema: str = SCHEMA
    node: str
    state: str
    cluster: str | None = None
    cluster_id: str | None = None
    authority_sha256: str | None = None
    authority_expires: str | None = None
    certificate_expires: str | None = None
    configuration: str | None = None
    waits_for: str | None = None
    closed: str | None = None
    failure: str | None = None
    members: list[MemberReport] = []
    arbiter: ArbiterLook | None = None
    warnings: list[str] = []
    healthy: bool = True


class Reporter:
    """Answers `look`, and the same question of other members. ``look_at_arbiter`` asks it, if there is
    one."""

    def __init__(
        self,
        cluster: Cluster,
        rekey: Rekey,
        look_at_arbiter: Callable[[], Awaitable[ArbiterLook | None]],
    ) -> None:
        self._cluster = cluster
        self._rekey = rekey
        self._look_at_arbiter = look_at_arbiter
        cluster.methods["peer.cluster.hello"] = PeerMethod(NoParams, self._hello)

    async def _hello(self, _caller: str, _params: NoParams) -> Hello:
        cluster = self._cluster
        facts = authority.inspect(cluster.generation.certificate)
        return Hello(cluster.node.name, __version__, cluster.version, utc(facts.not_after, "seconds"))

    async def look(self) -> ClusterReport:
        """This node's cluster; asks every other member."""
        cluster = self._cluster
        name = cluster.node.name
        if not cluster.member:
            failure = cluster.failure
            return ClusterReport(
                node=name,
                state="none" if failure is None else "failed",
                failure=None if failure is None else f"{failure.message}; {failure.remedy}",
                healthy=failure is None,
            )
        generation, content = cluster.generation, cluster.content
        own = authority.inspect(generation.certificate)
        ca = authority.inspect(generation.authority.certificate)
        version = cluster.version
        here = Hello(name, __version__, version, utc(own.not_after, "seconds"))
        members, arbiter = await asyncio.gather(
            asyncio.gather(*(self._member(member, here) for member in content.node)),
            self._look_at_arbiter(),
        )
        report = ClusterReport(
            node=name,
            state="member" if cluster.confirmed else "joining",
            cluster=content.cluster.name,
            cluster_id=content.cluster.id,
            authority_sha256=ca.sha256,
            authority_expires=utc(ca.not_after, "seconds"),
            certificate_expires=utc(own.not_after, "seconds"),
            configuration=version,
            waits_for=await self._rekey.waiting_for(),
            closed=None if cluster.closed is None else f"{cluster.closed.message}; {cluster.closed.remedy}",
            members=members,
            arbiter=arbiter,
        )
        found = warnings(report, cluster.now())
        return msgspec.structs.replace(report, warnings=found, healthy=not found)

    async def _member(self, name: str, here: Hello) -> MemberReport:
        cluster = self._cluster
        entry = cluster.content.node[name]

        def report(*, reachable: bool, **more: Any) -> MemberReport:
            return MemberReport(
                name,
                entry.addresses,
                entry.port,
                entry.control_port,
                name == cluster.node.name,
                reachable,
                **more,
            )

        def told(hello: Hello, seconds: float) -> MemberReport:
            return report(
                reachable=True,
                seconds=round(seconds, 4),
                version=hello.version,
                configuration=hello.configuration,
                certificate_expires=hello.certificate_expires,
            )

        if name == cluster.node.name:
            return told(here, 0.0)
        if entry.lost:
            return report(reachable=False, lost=True, why="it is lost")
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await cluster.peers.call(name, "peer.cluster.hello", {}, timeout=_ASK_SECONDS)
            hello = msgspec.convert(answer, type=Hello)
        except BlockpairError as error:
            prefix = f"{name} cannot be reached: "
            known = error.kind is ErrorKind.UNREACHABLE
            why = error.message.removeprefix(prefix) if known else error.message
            if isinstance(error, NotTrusted):
                why += f"; if {cluster.node.name} was removed: " + REJOIN.format(
                    node=cluster.node.name, member=name
                )
            return report(reachable=False, why=why, seconds=round(loop.time() - began, 4))
        except msgspec.ValidationError as error:
            return report(
                reachable=False, why=f"its answer is not understood: {error}", seconds=loop.time() - began
            )
        return told(hello, loop.time() - began)


class Concern(Struct, frozen=True):
    """Something that needs attention. ``code``: of what, a stable word; ``severe``: something does not work
    already.
    """

    code: str
    severe: bool
    text: str
    remedy: str


def warnings(report: ClusterReport, now: datetime) -> list[str]:
    """What needs attention, in words, with what to do."""
    return [f"{concern.text}; {concern.remedy}" for concern in concerns(report, now)]


def concerns(report: ClusterReport, now: datetime) -> list[Concern]:
    """What needs attention. Pure."""
    again = "it is tried again by itself"
    found = []
    if report.state == "joining":
        text = "the join is not complete: no member has confirmed it yet"
        found.append(Concern("joining", False, text, again))
    if report.closed is not None:
        found.append(Concern("control-port", True, f"no node can ask this one: {report.closed}", again))
    if report.waits_for is not None:
        text = f"a change of the authority waits for {report.waits_for} to say what came of it"
        found.append(Concern("authority", False, text, "it is asked again by itself"))
    for member in report.members:
        found += _of_member(member, report, now)
    if report.arbiter is not None and not report.arbiter.reachable:
        text = f"the arbiter, {report.arbiter.place}, cannot be asked: {report.arbiter.why}"
        remedy = "nothing waits for it now, but if a node were lost, the other one would"
        found.append(Concern("arbiter", True, text, remedy))
    if report.authority_expires is not None:
        remedy = "`blockpair cluster rotate --ca`"
        found += _expiry("the cluster's authority", report.authority_expires, now, remedy)
    return found


def _of_member(member: MemberReport, report: ClusterReport, now: datetime) -> list[Concern]:
    if member.lost:
        return []
    if not member.reachable:
        text = f"{member.name} cannot be reached: {member.why}"
        remedy = f"see that blockpaird runs on {member.name}, and that its control port is open"
        return [Concern("member", True, text, remedy)]
    found = []
    if member.configuration != report.configuration:
        text = f"{member.name} has another version of the configuration ({member.configuration})"
        found.append(Concern("configuration", False, text, "`blockpair config diff`"))
    if member.certificate_expires is not None:
        remedy = f"its daemon should have renewed it: `blockpair cluster rotate` on {member.name}"
        found += _expiry(f"{member.name}'s certificate", member.certificate_expires, now, remedy)
    return found


def _expiry(what: str, expires: str, now: datetime, remedy: str) -> list[Concern]:
    left = datetime.fromisoformat(expires) - now
    if left >= _SOON:
        return []
    if left <= timedelta(0):
        return [Concern("certificate", True, f"{what} has expired ({expires})", remedy)]
    return [Concern("certificate", False, f"{what} expires in {left.days} days ({expires})", remedy)]
