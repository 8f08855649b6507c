"""The daemon's checks: gathers this node's facts, asks the others for theirs, and tries the ways there and
back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from blockpair.checks.examine import Others, examine
from blockpair.checks.facts import Clocks, FenceFacts, NodeFacts, ServiceFacts, Way
from blockpair.checks.finding import Examination
from blockpair.checks.machine import gather
from blockpair.checks.members import cluster_findings, status_findings
from blockpair.cluster.cluster import Cluster
from blockpair.cluster.peers import call_at
from blockpair.cluster.reach import Reached, reach
from blockpair.cluster.report import ClusterReport, concerns
from blockpair.cluster.server import PeerMethod
from blockpair.config.cluster import addresses, control_addresses
from blockpair.config.names import Address
from blockpair.daemon.manager import Manager
from blockpair.daemon.service_files import Definition
from blockpair.errors import BlockpairError
from blockpair.failover.lacking import lacking
from blockpair.failover.units import UnitError
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method
from blockpair.units import utc

_FACTS, _WAYS, _ECHO = "peer.checks.facts", "peer.checks.ways", "peer.checks.echo"
_REACH_SECONDS = 3.0
_ASK_SECONDS = 20.0
# Several packets of the largest MTU.
_LARGE = 32 << 10
_Answer = TypeVar("_Answer")


class EchoParams(Struct, forbid_unknown_fields=True):
    """``padding`` comes back."""

    padding: str


class Echo(Struct, frozen=True):
    """``time``: by the clock of who answers, in seconds since 1970."""

    time: float
    padding: str


class Checks:
    """``look_at_cluster``: what `cluster status` shows."""

    def __init__(
        self,
        manager: Manager,
        cluster: Cluster,
        look_at_cluster: Callable[[], Awaitable[ClusterReport]],
    ) -> None:
        self._manager = manager
        self._cluster = cluster
        self._look_at_cluster = look_at_cluster
        cluster.methods.update(self._peer_methods())

    def methods(self) -> dict[str, Method]:
        """What the daemon's socket offers of it."""

        async def tell(_caller: Caller, _params: NoParams) -> Examination:
            return await self.examine()

        return {"node.checks": Method(NoParams, tell, interruptible=True, read_only=True)}

    async def examine(self) -> Examination:
        """Check everything; takes seconds."""
        others = self._cluster.others() if self._cluster.member else []
        own, report, status, facts, ways, back = await asyncio.gather(
            self._facts(),
            self._look_at_cluster(),
            self._manager.status(),
            asyncio.gather(*(self._ask(node, _FACTS, NodeFacts) for node in others)),
            asyncio.gather(*map(self._ways_to, others)),
            asyncio.gather(*(self._ask(node, _WAYS, list[Way]) for node in others)),
        )
        clocks = [clocks for _, seen in ways for clocks in seen]
        quickest = {
            node: min(
                (each for each in clocks if each.node == node),
                key=lambda each: each.give_or_take,
                default=None,
            )
            for node in others
        }
        found = Others(
            facts=dict(zip(others, facts, strict=True)),
            ways=[
                *(way for there, _ in ways for way in there),
                *(way for home in back if not isinstance(home, str) for way in home),
            ],
            clocks=[each for each in quickest.values() if each is not None],
            daemon=[
                *cluster_findings(report, concerns(report, self._cluster.now())),
                *status_findings(status),
            ],
        )
        return examine(own, utc(datetime.now(UTC), "seconds"), found)

    def _peer_methods(self) -> dict[str, PeerMethod]:
        async def facts(_caller: str, _params: NoParams) -> Any:
            return await self._facts()

        async def ways(caller: str, _params: NoParams) -> Any:
            # By this node's own configuration: nobody has it try other addresses.
            return (await self._ways_to(caller))[0]

        async def echo(_caller: str, params: EchoParams) -> Any:
            return Echo(time.time(), params.padding)

        return {
            _FACTS: PeerMethod(NoParams, facts),
            _WAYS: PeerMethod(NoParams, ways),
            _ECHO: PeerMethod(EchoParams, echo),
        }

    async def _facts(self) -> NodeFacts:
        facts = await asyncio.to_thread(gather, self._manager.node, self._manager.places)
        arbiter = self._manager.judges.fencing()
        states = [] if arbiter is None else arbiter.monitor.states
        fences = [FenceFacts(each.node, each.device, each.works, each.problem) for each in states]
        services, unseen = await self._services()
        return replace(facts, fences=fences, services=services, unseen=[*facts.unseen, *unseen])

    async def _services(self) -> tuple[list[ServiceFacts], list[str]]:
        """Of those that this node may have to bring up; and what could not be seen."""
        found, unseen = [], []
        for name, entry in self._cluster.content.resource.items() if self._cluster.member else ():
            if self._manager.node.name not in entry.on:
                continue
            try:
                service = Definition(name, entry.service).service
                if not service.empty:
                    found.append(ServiceFacts(name, await lacking(service)))
            except (BlockpairError, OSError, UnitError) as error:
                unseen.append(f"what the service of {name} wants: {error}")
        return found, unseen

    async def _ask(self, node: str, method: str, form: type[_Answer]) -> _Answer | str:
        """What a member answers, or why it does not."""
        try:
            answer = await self._cluster.peers.call(node, method, {}, timeout=_ASK_SECONDS)
            return msgspec.convert(answer, form)
        except BlockpairError as error:
            return error.message
        except msgspec.ValidationError as error:
            return f"its answer is not understood ({error}): compare the versions"

    async def _ways_to(self, node: str) -> tuple[list[Way], list[Clocks]]:
        entry = self._cluster.content.node[node]
        ways, controls = await asyncio.gather(
            asyncio.gather(*(self._replication(node, address) for address in addresses(entry))),
            asyncio.gather(*(self._control(node, address) for address in control_addresses(entry))),
        )
        clocks = [clocks for _, clocks in controls if clocks is not None]
        return [*ways, *(way for way, _ in controls)], clocks

    async def _replication(self, node: str, address: Address) -> Way:
        return self._way(node, address, "replication", await reach(address, _REACH_SECONDS))

    async def _control(self, node: str, address: Address) -> tuple[Way, Clocks | None]:
        way = self._way(node, address, "control", await reach(address, _REACH_SECONDS))
        if way.why is not None:
            return way, None
        try:
            clocks = await self._echo(node, address, "")
        except BlockpairError as error:
            return replace(way, why=error.message), None
        try:
            await self._echo(node, address, "x" * _LARGE)
        except BlockpairError as error:
            return replace(way, large=error.message), clocks
        return way, clocks

    async def _echo(self, node: str, address: Address, padding: str) -> Clocks:
        began, counted = time.time(), time.monotonic()
        context = self._cluster.client_context()
        answer = await call_at([address], node, context, _ECHO, EchoParams(padding), timeout=_REACH_SECONDS)
        took = time.monotonic() - counted
        theirs = msgspec.convert(answer, Echo).time
        return Clocks(node, theirs - began - took / 2, took / 2)

    def _way(self, node: str, address: Address, port: Any, reached: Reached) -> Way:
        way = Way(
            self._manager.node.name,
            node,
            str(address),
            port,
            why=reached.why,
            seconds=reached.seconds,
            path_mtu=reached.path_mtu,
        )
        if reached.own is None:
            return way
        name = _interface(reached.own)
        state = None if name is None else psutil.net_if_stats().get(name)
        if state is None:
            return way
        return replace(
            way,
            interface=name,
            mtu=state.mtu,
            # 0, or the driver's -1: it does not know.
            mbps=state.speed if 0 < state.speed < 65535 else None,
            half_duplex=state.duplex == psutil.NIC_DUPLEX_HALF,
        )


def _interface(own: str) -> str | None:
    """The interface that has the address."""
    for name, found in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == own for address in found):
            return name
    return None
