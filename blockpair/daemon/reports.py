"""What is told of the node's resources: `status`, and the answer of each command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from blockpair import __version__
from blockpair.cluster.change import Configuration
from blockpair.config.cluster import addresses
from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig
from blockpair.config.resource import INTERNAL, ResourceConfig, changed_keys
from blockpair.daemon.arbitration import arbiter_report
from blockpair.daemon.judges import Judges
from blockpair.daemon.runtime import Runtime
from blockpair.errors import BlockpairError
from blockpair.status.advice import Outside, advice, healthy
from blockpair.status.configuration import configuration_report
from blockpair.status.engine import EngineStatus
from blockpair.status.paths import OwnPlace, named
from blockpair.status.report import (
    SCHEMA,
    Advice,
    ArbiterReport,
    ConfigurationConflict,
    ConfigurationReport,
    EventRecord,
    KernelDeviceStatus,
    PeerSummary,
    ResourceReport,
    ServiceStatus,
    State,
    StatusReport,
    VerifyStatus,
)
from blockpair.units import utc

_EVENTS_SHOWN = 10
_NO_DEVICE = KernelDeviceStatus(attached=False)


class Reports:
    """Puts together what the engine, the daemon and the cluster know. ``present``: a resource's configuration
    as it is in its file; ``configuration``: the cluster's, where this node may be in one.
    """

    def __init__(
        self,
        node: NodeConfig,
        places: Locations,
        judges: Judges,
        present: Callable[[str], ResourceConfig],
        configuration: Callable[[], Configuration | None],
    ) -> None:
        self._node = node
        self._places = places
        self._judges = judges
        self._present = present
        self._configuration = configuration
        self.service_status: Callable[[str], ServiceStatus | None] = lambda _name: None
        """What follows the data of a resource."""
        self.array_advice: Callable[[ResourceConfig], Awaitable[list[Advice]]] = _no_arrays
        """What is to be said of the arrays below a resource."""
        self.node_advice: Callable[[], list[Advice]] = list
        """What is to be said of the node's own file."""

    def node(self, resources: list[ResourceReport]) -> StatusReport:
        """The whole node."""
        configuration, own = _configuration(self._configuration()), self.node_advice()
        return StatusReport(
            schema=SCHEMA,
            version=__version__,
            node=self._node.name,
            time=utc(datetime.now(UTC)),
            healthy=all(resource.healthy for resource in resources)
            and (configuration is None or healthy(configuration.advice))
            and healthy(own),
            resources=resources,
            configuration=configuration,
            advice=own,
        )

    async def down(self, config: ResourceConfig) -> ResourceReport:
        """A resource that is not up."""
        return _report(
            config.name,
            config=config,
            outside=self._outside(config),
            arbiter=arbiter_report(config, self._judges),
            service=self.service_status(config.name),
            arrays=await self.array_advice(config),
        )

    async def up(self, runtime: Runtime, *, waits: bool) -> ResourceReport:
        """One that is, or shall be. ``waits``: it could not be started, and is tried again."""
        config = runtime.config
        arrays = await self.array_advice(config)
        failure, engine = None, None
        try:
            engine = await runtime.status()
        except BlockpairError as error:
            failure = error.message
        if engine is not None and engine.state == "failed":
            failure = engine.failure or "the engine stopped without a reason"
        elif engine is None and failure is None:
            failure = (
                runtime.failure.message if runtime.failure is not None else "it is being started or stopped"
            )
        if engine is not None:
            engine = self._named(engine, config)
        pending, misconfigured = self._pending(config)
        serving = (
            engine is not None
            and engine.state == "running"
            and engine.role == "Primary"
            and engine.watchdog is None
        )
        return _report(
            config.name,
            config=config,
            failure=failure,
            engine=engine,
            device=runtime.device_status(),
            events=runtime.recent_events(),
            socket=str(self._places.nbd_socket(config.name)) if serving else None,
            runs=True,
            waits=waits,
            pending=pending,
            misconfigured=misconfigured,
            outside=self._outside(config),
            arbiter=runtime.arbiter_report(),
            service=self.service_status(config.name),
            arrays=arrays,
            verify=runtime.verifying.status(),
        )

    def _named(self, engine: EngineStatus, config: ResourceConfig) -> EngineStatus:
        """With the paths named by what the cluster's configuration knows of this node."""
        configuration = self._configuration()
        content = None if configuration is None else configuration.content
        entry = None if content is None else content.node.get(self._node.name)
        if entry is None:
            return engine
        own = OwnPlace(tuple(addresses(entry)), self._node.listen, self._places.node_file)
        return named(engine, own, {peer.name: len(peer.addresses) for peer in config.peers})

    def _outside(self, config: ResourceConfig) -> Outside:
        """What keeps a resource from peers because this node is no member, or none for them."""
        configuration = self._configuration()
        if configuration is None or configuration.content is None:
            return Outside(no_cluster=config.tls)
        return Outside(distrusted=configuration.distrusted)

    def _pending(self, config: ResourceConfig) -> tuple[list[str], str | None]:
        """The keys that its file has other values for than a resource goes by, or why it cannot be read."""
        try:
            written = self._present(config.name)
        except BlockpairError as error:
            return [], error.message
        keys, configuration = changed_keys(config, written), self._configuration()
        content = None if configuration is None else configuration.content
        # Of the cluster's resources, where the peers are is taken up at once.
        by_hand = content is None or config.name not in content.resource
        return keys + (["peer"] if by_hand and written.peers != config.peers else []), None


def broken(name: str, why: str) -> ResourceReport:
    """A resource that is down, and whose file cannot be read."""
    return _report(name, failure=why)


async def _no_arrays(_config: ResourceConfig) -> list[Advice]:
    return []


def _configuration(configuration: Configuration | None) -> ConfigurationReport | None:
    if configuration is None:
        return None
    history, failure = configuration.history, configuration.failure
    if history is None and failure is None:
        return None
    conflicts = [
        ConfigurationConflict(node, theirs.head.number, theirs.head.author, theirs.head.time, theirs.head.why)
        for node, theirs in configuration.conflicts.items()
    ]
    return configuration_report(
        version=0 if history is None else history.head.number,
        head="" if history is None else history.head_id,
        seen={node: (seen.head, seen.problem) for node, seen in configuration.seen.items()},
        conflicts=conflicts,
        problems=configuration.problems,
        failure=None if failure is None else f"{failure.message}; {failure.remedy}",
        older=frozenset() if history is None else history.known,
        node=configuration.node,
        distrusted=configuration.distrusted,
    )


def _report(
    name: str,
    *,
    config: ResourceConfig | None = None,
    failure: str | None = None,
    engine: EngineStatus | None = None,
    device: KernelDeviceStatus = _NO_DEVICE,
    events: Sequence[EventRecord] = (),
    socket: str | None = None,
    runs: bool = False,
    waits: bool = False,
    pending: Sequence[str] = (),
    misconfigured: str | None = None,
    outside: Outside | None = None,
    arbiter: ArbiterReport | None = None,
    service: ServiceStatus | None = None,
    arrays: Sequence[Advice] = (),
    verify: VerifyStatus | None = None,
) -> ResourceReport:
    state: State = "failed" if failure is not None else ("running" if runs else "down")
    entries = advice(
        name,
        state,
        failure,
        engine,
        device,
        waits=waits,
        pending=pending,
        misconfigured=misconfigured,
        outside=outside or Outside(),
        arbiter=arbiter,
        service=service,
        arrays=arrays,
        verify=verify,
    )
    return ResourceReport(
        name=name,
        state=state,
        failure=failure,
        healthy=healthy(entries),
        device=str(config.device) if config else "",
        metadata=INTERNAL if config and config.metadata is None else str(config.metadata if config else ""),
        peers=[PeerSummary(peer.name, str(peer.address)) for peer in config.peers] if config else [],
        nbd_socket=socket,
        kernel_device=device,
        engine=engine,
        advice=entries,
        events=list(events[-_EVENTS_SHOWN:]),
        arbiter=arbiter,
        service=service,
        verify=verify,
    )
