"""The daemon's resources, and the commands on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog

from blockpair import _engine, bundles
from blockpair.arbiter import interface
from blockpair.arbiter.fence.arbiter import Known
from blockpair.arbiter.interface import Key
from blockpair.cluster.change import Configuration
from blockpair.cluster.peers import Peers
from blockpair.config.arbiter import MANUAL
from blockpair.config.files import ConfigError
from blockpair.config.locations import SERVICE_FILES, Locations
from blockpair.config.node import NodeConfig
from blockpair.config.resource import ResourceConfig, read_resource
from blockpair.daemon.desired import (
    BootMarker,
    Desired,
    DesiredState,
    DeviceMarker,
    DiskMarker,
    StaleMarker,
)
from blockpair.daemon.fencing import CALL_SECONDS
from blockpair.daemon.judges import Judges
from blockpair.daemon.kernel import LockedMemory
from blockpair.daemon.reports import Reports, broken
from blockpair.daemon.runtime import Runtime
from blockpair.daemon.verifying import Verifying, report_of
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.files.losses import side_loss
from blockpair.status.arbitration import Failover, failover
from blockpair.status.conditions import missing, summary
from blockpair.status.engine import EngineStatus
from blockpair.status.loss import BothLosses, SideLoss, decode_report
from blockpair.status.plan import Plan
from blockpair.status.report import (
    KernelDeviceStatus,
    ResourceReport,
    StatusReport,
)
from blockpair.verify.messages import VerifyReport
from blockpair.verify.store import load as load_record
from blockpair.verify.store import remove as remove_record

_EVENTS_SHOWN = 10
# Some changes (a peer's disk state, say) come without an event of their own.
_WAIT_POLL_SECONDS = 0.1
_RECONCILE_SECONDS = 0.5
_NO_DEVICE = KernelDeviceStatus(attached=False)


class Manager:
    """All resources of the node. A lock a resource orders its commands; status never waits for it."""

    def __init__(
        self,
        node: NodeConfig,
        places: Locations,
        desired: DesiredState,
        boot: str,
        listener: _engine.Listener,
        *,
        judges: Judges,
        watchdog: NodeWatchdog,
    ) -> None:
        self.node = node
        self.judges = judges
        self._watchdog = watchdog
        self.places = places
        self._desired = desired
        self.boot = boot
        self._listener = listener
        self._runtimes: dict[str, Runtime] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._locked_memory = LockedMemory()
        # Resources whose state may have changed by itself.
        self._stirred: set[str] = set()
        self._stirring = asyncio.Event()
        self._log = structlog.get_logger()
        self.configuration: Configuration | None = None
        """The cluster's, where this node may be in one."""
        self.peers: Peers | None = None
        """Calls to its other members."""
        self.reports = Reports(node, places, judges, self.config, lambda: self.configuration)
        """What is told of the resources."""

    def lock(self, name: str) -> asyncio.Lock:
        """Orders the commands on one resource."""
        return self._locks[name]

    def names(self) -> list[str]:
        """The configured resources."""
        return sorted(file.stem for file in self.places.resources.glob("*.toml"))

    def running(self) -> list[str]:
        """Those that have an engine."""
        return sorted(name for name, runtime in self._runtimes.items() if runtime.running)

    def config(self, name: str) -> ResourceConfig:
        """A resource's configuration as it is in its file. Raises `BlockpairError`."""
        try:
            return read_resource(self.places.resource_file(name), self.node.name)
        except FileNotFoundError:
            known = ", ".join(self.names())
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"there is no resource {name!r} on {self.node.name}",
                f"the resources here are: {known}" if known else "create one: `blockpair create --help`",
            ) from None

    def marker(self, name: str) -> BootMarker:
        """The resource's Primary marker."""
        return BootMarker(self.places.primary_marker(name), self.boot)

    def met(self, name: str) -> BootMarker:
        """Whether the resource's nodes have met in this boot."""
        return BootMarker(self.places.met_marker(name), self.boot)

    async def known(self, key: Key) -> Known:
        """What a resource's engine, and its peer, know of its configuration."""
        runtime = self._runtimes.get(key.name)
        return Known((), met=False) if runtime is None else await runtime.known(key)

    async def tell(self, key: Key, entered: interface.Configuration) -> None:
        """Have a resource's peer know its configuration."""
        runtime = self._runtimes.get(key.name)
        if runtime is not None:
            await runtime.tell(key, entered)

    async def _call_member(self, node: str, method: str, params: Any) -> Any:
        if self.peers is None:
            raise BlockpairError(ErrorKind.UNREACHABLE, "this node is in no cluster", "join one")
        return await self.peers.call(node, method, params, timeout=CALL_SECONDS)

    def is_up(self, name: str) -> bool:
        """Whether it runs, has failed, or shall be up."""
        return name in self._runtimes or self._desired.get(name).up

    def forget(self, name: str) -> None:
        """Drop what was desired of a resource that is being deleted. Raises `OSError`."""
        self._desired.forget(name)
        self.marker(name).clear()
        self.met(name).clear()
        StaleMarker(self.places.stale_marker(name)).clear()
        remove_record(self.places.verify_file(name))
        DeviceMarker(self.places.device_marker(name)).clear()
        DiskMarker(self.places.disk_marker(name)).clear()
        for what in SERVICE_FILES:
            self.places.service_file(name, what).unlink(missing_ok=True)
        self._locks.pop(name, None)

    async def start_all(self) -> None:
        """Start what was up when the last daemon ended. A resource that cannot start fails alone."""
        for name in self.names():
            if self._desired.get(name).up:
                async with self.lock(name):
                    await self._start(name)
        await self._settle_watchdog()

    def unstarted(self) -> list[Runtime]:
        """Those that shall be up, and could not be started."""
        return [
            runtime
            for name, runtime in self._runtimes.items()
            if not runtime.running and runtime.failure is not None and self._desired.get(name).up
        ]

    async def start_late(self, name: str, *, resume: bool) -> None:
        """Try once more to start one of the `unstarted`; Primary again only where it may ``resume``."""
        async with self.lock(name):
            former = self._runtimes.get(name)
            if former is None or former.running:
                return
            marker = self.marker(name)
            if not resume and await asyncio.to_thread(marker.is_set):
                await asyncio.to_thread(marker.clear)
                text = f"{name} was Primary here: too long ago to be that again by itself"
                self._log.warning("role.not_resumed", resource=name, text=text)
            await self._start(name)

    async def _start(self, name: str) -> None:
        """With its lock held."""
        former = self._runtimes.get(name)
        try:
            runtime = self._runtime(self.config(name))
            # What was told already is not told again.
            runtime.failure = None if former is None else former.failure
            self._runtimes[name] = runtime
            await runtime.check_disk()
            await runtime.start(self._listener, self._desired.get(name))
            await runtime.reconcile()
        except BlockpairError as error:
            present = self._runtimes.get(name)
            if present is None or present.failure is not error:
                self._log.error("resource.start-failed", resource=name, text=error.message)
        except Exception:
            # Whatever it is, the other resources shall be up.
            self._log.exception("resource.start-failed", resource=name)

    async def stop_all(self) -> None:
        """Stop every engine; roles and kernel devices stay for the next daemon. Then let go of the
        arbiter.
        """

        async def stop(name: str, runtime: Runtime) -> None:
            async with self.lock(name):
                try:
                    await runtime.suspend()
                except Exception:
                    # The others are stopped in good order all the same.
                    self._log.exception("resource.stop-failed", resource=name)

        await asyncio.gather(*(stop(name, runtime) for name, runtime in self._runtimes.items()))
        await self.judges.close()

    async def supervise(self) -> None:
        """Keep kernel devices as they should be, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _RECONCILE_SECONDS
        while True:
            # `wait_for` of Python 3.11 forgets a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._stirring.wait()
            chosen = set(self._stirred)
            if loop.time() >= due:
                due = loop.time() + _RECONCILE_SECONDS
                chosen = set(self._runtimes)
            self._stirring.clear()
            self._stirred.clear()
            self._watchdog.keep()
            for name, runtime in list(self._runtimes.items()):
                if name not in chosen:
                    continue
                # A command that holds the lock sees to the device itself.
                if self.lock(name).locked():
                    continue
                async with self.lock(name):
                    try:
                        await runtime.reconcile()
                    except BlockpairError as error:
                        self._log.error("resource.device-failed", resource=name, text=error.message)
                    except Exception:
                        # This watches over all resources: it must not end for the sake of one.
                        self._log.exception("resource.device-failed", resource=name)
            await self._settle_watchdog()

    async def _settle_watchdog(self) -> None:
        if not self._watchdog.inherited:
            return
        arbitrated = [name for name, runtime in self._runtimes.items() if runtime.config.arbiter != MANUAL]
        serves = await asyncio.to_thread(lambda: any(self.marker(name).is_set() for name in arbitrated))
        self._watchdog.settle(serves=serves)

    def _stir(self, name: str) -> None:
        self._stirred.add(name)
        self._stirring.set()

    async def up(self, name: str) -> None:
        """Start a resource, and at every start of the daemon from now on. Raises `BlockpairError`."""
        async with self.lock(name):
            runtime = self._runtimes.get(name)
            if runtime is not None and runtime.running:
                status = await runtime.status()
                if status is not None and status.state == "running":
                    return
                await runtime.down()
            fresh = self._runtime(self.config(name))
            await fresh.start(self._listener, Desired(up=True))
            self._runtimes[name] = fresh
            self._want(name, Desired(up=True))

    async def down(self, name: str) -> None:
        """Stop a resource until the next `up`. Raises `BlockpairError`."""
        async with self.lock(name):
            runtime = self._runtimes.get(name)
            if runtime is None:
                self.config(name)
            else:
                await runtime.down()
                del self._runtimes[name]
            self._want(name, Desired())

    async def connect(self, name: str, peer: str | None, *, connect: bool) -> None:
        """Connect to, or disconnect from, a peer or all; it stays so after a restart. Raises
        `BlockpairError`.
        """
        async with self.lock(name):
            runtime = self.runtime(name)
            away = set(self._desired.get(name).disconnected)
            for chosen in _peers(runtime.config, peer):
                await runtime.call("connect" if connect else "disconnect", peer=chosen)
                away = away - {chosen} if connect else away | {chosen}
                self._want(name, Desired(up=True, disconnected=sorted(away)))

    async def readdress(self, name: str) -> None:
        """Take up where a resource's peers are by its file now, if it is up. Left for the next time while
        another command on it is under way. Raises `BlockpairError`.
        """
        runtime = self._runtimes.get(name)
        if runtime is None or not runtime.running or self.lock(name).locked():
            return
        async with self.lock(name):
            await runtime.readdress(self.config(name).peers)

    async def promote(self, name: str, *, force: bool) -> None:
        """Make this node Primary. Raises `BlockpairError`."""
        runtime = self.runtime(name)
        if force or runtime.config.arbiter == MANUAL:
            async with self.lock(name):
                runtime = self.runtime(name)
                await runtime.offer(was_primary=await runtime.become_primary(force=force))
            return
        # Without the lock: it waits for the arbiter, and neither `down` nor a promotion by force may wait.
        was_primary = await runtime.become_primary(force=False)
        async with self.lock(name):
            if self._runtimes.get(name) is runtime:
                await runtime.offer(was_primary=was_primary)

    async def offer(self, name: str) -> None:
        """Offer the device of a node that became Primary by itself. Raises `BlockpairError`."""
        async with self.lock(name):
            await self.runtime(name).offer(was_primary=True)

    async def demote(self, name: str) -> None:
        """Make this node Secondary. Raises `BlockpairError`."""
        async with self.lock(name):
            await self.runtime(name).demote()

    async def warm_up(self, name: str) -> None:
        """Have this node, a Secondary, read what the Primary reads most. Raises `BlockpairError`."""
        # Without the lock: no promotion waits for it.
        await self.runtime(name).call("warm_up")

    async def sync(self, name: str, source: str) -> None:
        """Begin a full sync with ``source``, a node's name, as the good copy. Raises `BlockpairError`."""
        async with self.lock(name):
            runtime = self.runtime(name)
            self._check_node(runtime.config, source)
            await runtime.call("sync", source=source)

    @contextlib.asynccontextmanager
    async def verifying(self, name: str) -> AsyncIterator[tuple[Verifying, EngineStatus]]:
        """The comparison of a resource's copies, for one command on it. Raises `BlockpairError`."""
        async with self.lock(name):
            runtime = self.runtime(name)
            status = await asyncio.to_thread(runtime.engine().status)
            yield runtime.verifying, status

    async def verify_report(self, name: str) -> VerifyReport:
        """What is known of whether both copies are the same, also while it is down. Raises
        `BlockpairError`.
        """
        runtime = self._runtimes.get(name)
        if runtime is not None and runtime.running:
            return runtime.verifying.report()
        self.config(name)
        record = await asyncio.to_thread(load_record, self.places.verify_file(name))
        if record is None:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"the resource {name} is down, and its copies were never compared",
                f"blockpair up {name}",
            )
        return report_of(name, record)

    async def plan(self, name: str, peer: str | None) -> Plan:
        """What a connect to a peer would do now; nothing is done. Raises `BlockpairError`."""
        runtime = self.runtime(name)
        found, _ = await runtime.consult(_peers(runtime.config, peer)[0], report=False)
        return found

    async def losses(self, name: str, peer: str | None) -> BothLosses:
        """What each side of a split brain would lose; nothing is done. Takes minutes where files are looked
        up. Raises `BlockpairError`.
        """
        config = self.config(name)
        other = _peers(config, peer)[0]

        async def ask() -> tuple[SideLoss, Plan | None]:
            try:
                plan, report = await self.runtime(name).consult(other, report=True)
            except BlockpairError as error:
                return SideLoss(other, problem=error.message), None
            if report is not None:
                return decode_report(report, other), plan
            return SideLoss(other, problem=plan.problem or "its daemon says nothing of it"), plan

        runtime = self._runtimes.get(name)

        def look() -> SideLoss:
            if runtime is not None:
                return runtime.loss(other)
            return side_loss(config, self.node.name, other, running=None, bundles=self.places.bundles(name))

        own, (theirs, plan) = await asyncio.gather(asyncio.to_thread(look), ask())
        return BothLosses(name, (own, theirs), plan)

    async def resolve(self, name: str, victim: str, *, bundle: bool) -> None:
        """End a split brain: the changes of ``victim``, a node's name, go, saved in a bundle first unless
        ``bundle`` is false. Returns when the resync has begun. Raises `BlockpairError`, and then nothing was
        given up.
        """
        runtime = self.runtime(name)
        self._check_node(runtime.config, victim)
        # Without the lock: to save a bundle may take hours, and a `down` ends it.
        await runtime.call("resolve", victim=victim, bundle=bundle)
        async with self.lock(name):
            if self._runtimes.get(name) is runtime:
                away = set(self._desired.get(name).disconnected) - set(_peers(runtime.config, None))
                self._want(name, Desired(up=True, disconnected=sorted(away)))

    def _check_node(self, config: ResourceConfig, node: str) -> None:
        nodes = [self.node.name, *(peer.name for peer in config.peers)]
        if node not in nodes:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{node!r} is no node of {config.name}",
                f"its nodes are: {', '.join(nodes)}",
            )

    async def restore(self, bundle: Path) -> int:
        """Write a bundle's blocks back through its resource, Primary here; the bytes. Raises
        `BlockpairError`.
        """
        name = (await asyncio.to_thread(bundles.read, bundle, verify=False)).facts.resource
        async with self.lock(name):
            return await self.runtime(name).restore(bundle)

    async def wait(self, name: str, conditions: list[str], limit: float | None) -> ResourceReport:
        """The report as soon as all of ``conditions`` hold. Raises `BlockpairError` after ``limit``
        seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = None if limit is None else loop.time() + limit
        while True:
            runtime = self._runtimes.get(name)
            changed = runtime.changed if runtime is not None else asyncio.Event()
            report = await self.report(name)
            unmet = missing(conditions, report)
            if not unmet:
                return report
            if report.state == "failed":
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"{name} will not be {', '.join(unmet)}: it has failed: {report.failure}",
                    f"blockpair status {name}",
                )
            left = _WAIT_POLL_SECONDS if deadline is None else min(_WAIT_POLL_SECONDS, deadline - loop.time())
            if left <= 0:
                raise BlockpairError(
                    ErrorKind.TIMEOUT,
                    f"{name} is not {', '.join(unmet)} after {limit:g} s: it is {summary(report)}",
                    f"blockpair status {name}",
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()

    def failover(self, name: str, protocol: str) -> Failover:
        """What becomes of a new resource when a node is lost."""
        judges = self.judges
        kind = judges.kind
        return failover(name, kind, judges.place(kind), protocol, clustered=judges.clustered)

    async def status(self) -> StatusReport:
        """The whole node."""
        return self.reports.node([await self.report(name) for name in self.names()])

    async def report(self, name: str) -> ResourceReport:
        """One resource. Raises `BlockpairError` for an unknown one; a misconfigured one is reported."""
        runtime = self._runtimes.get(name)
        if runtime is not None:
            return await self.reports.up(runtime, waits=runtime in self.unstarted())
        try:
            config = self.config(name)
        except ConfigError as error:
            return broken(name, error.message)
        return await self.reports.down(config)

    def runtime(self, name: str) -> Runtime:
        """A resource that is up. Raises `BlockpairError`."""
        runtime = self._runtimes.get(name)
        if runtime is None:
            self.config(name)
            raise BlockpairError(ErrorKind.FAILED, f"the resource {name} is down", f"blockpair up {name}")
        return runtime

    def _runtime(self, config: ResourceConfig) -> Runtime:
        mode = config.kernel_device or self.node.kernel_device
        if self.node.kernel_device == "off":
            mode = "off"
        return Runtime(
            config,
            node=self.node.name,
            places=self.places,
            marker=self.marker(config.name),
            met=self.met(config.name),
            call=self._call_member,
            kernel_device=mode,
            locked=self._locked_memory,
            judges=self.judges,
            watchdog=self._watchdog.engine,
            stir=lambda: self._stir(config.name),
        )

    def _want(self, name: str, desired: Desired) -> None:
        try:
            self._desired.set(name, desired)
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO,
                f"done, but it will not survive a restart of the daemon: {self.places.desired_file} "
                f"cannot be written: {error.strerror}",
                "make room or correct the mode of that directory, then repeat the command",
            ) from None


def _peers(config: ResourceConfig, peer: str | None) -> list[str]:
    """That peer, or all of them. Raises `BlockpairError` for one that is none."""
    peers = [entry.name for entry in config.peers]
    if peer is not None and peer not in peers:
        raise BlockpairError(
            ErrorKind.NOT_FOUND, f"{config.name} has no peer {peer!r}", f"its peers are: {', '.join(peers)}"
        )
    return peers if peer is None else [peer]
