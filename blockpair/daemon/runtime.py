"""One resource in the daemon: its engine, its kernel device, its recent events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import structlog

from blockpair import _engine, bridge
from blockpair.arbiter.fence.arbiter import Known
from blockpair.arbiter.interface import ArbiterUnreachable, Configuration, Key
from blockpair.bridge import Notice, Running, Shown
from blockpair.config.arbiter import MANUAL
from blockpair.config.locations import Locations, check_socket_path
from blockpair.config.node import KernelDevice
from blockpair.config.resource import Peer, ResourceConfig
from blockpair.daemon.arbitration import Arbitration, arbiter_report
from blockpair.daemon.asker import asked_by
from blockpair.daemon.backing import another, look_at
from blockpair.daemon.clients import describe
from blockpair.daemon.desired import BootMarker, Desired, DeviceMarker, DiskMarker, StaleMarker
from blockpair.daemon.fencing import Call, Fencing
from blockpair.daemon.judges import Judges
from blockpair.daemon.kernel import LockedMemory, ResourceDevice
from blockpair.daemon.verifying import Verifying
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.files.losses import side_loss
from blockpair.status.engine import EngineStatus
from blockpair.status.loss import SideLoss, encode_report
from blockpair.status.plan import Plan, peer_is_primary
from blockpair.status.report import ArbiterReport, EventRecord, KernelDeviceStatus
from blockpair.units import utc

_EVENTS_KEPT = 64
# How long a peer that is not connected, and may be dead, keeps a promotion waiting.
_ROLE_PATIENCE_SECONDS = 1.5


class Runtime:
    """A resource that shall be up. Methods that change something are called with `lock` held. ``stir`` is
    called when its state may have changed by itself: `reconcile` is due.
    """

    def __init__(
        self,
        config: ResourceConfig,
        *,
        node: str,
        places: Locations,
        marker: BootMarker,
        met: BootMarker,
        call: Call,
        kernel_device: KernelDevice,
        locked: LockedMemory,
        judges: Judges,
        watchdog: _engine.Watchdog | None = None,
        stir: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.failure: BlockpairError | None = None
        self._node = node
        self._places = places
        self._marker = marker
        self._fencing = Fencing(config.name, judges, met, call) if config.arbiter == "fence" else None
        self._stale = StaleMarker(places.stale_marker(config.name))
        self.disk = DiskMarker(places.disk_marker(config.name))
        """Which disk it had when it was up last."""
        self._running: Running | None = None
        self._judges = judges
        self._watchdog = watchdog
        self._arbitration: Arbitration | None = None
        self._stir = stir
        self._events: deque[EventRecord] = deque(maxlen=_EVENTS_KEPT)
        self._changed = asyncio.Event()
        # Peers that a report is being made for.
        self._reporting: set[str] = set()
        self._watched: int | None = None
        self._log = structlog.get_logger().bind(resource=config.name)
        self.verifying = Verifying(
            config.name, places.verify_file(config.name), self.call, self._shown, self.note
        )
        """Comparing both copies."""
        self._device = ResourceDevice(
            f"{node}/{config.name}",
            marker=DeviceMarker(places.device_marker(config.name)),
            link=places.device_link(config.name),
            mode=kernel_device,
            queues=config.queues,
            sector_size=config.sector_size,
            dead_connection_timeout=config.dead_connection_timeout,
            locked=locked,
        )

    @property
    def running(self) -> bool:
        """Whether there is an engine, failed or not."""
        return self._running is not None

    @property
    def changed(self) -> asyncio.Event:
        """Set at the engine's next event; for that event only."""
        return self._changed

    def recent_events(self) -> list[EventRecord]:
        """The last events, oldest first."""
        return list(self._events)

    def note(self, severity: str, name: str, text: str) -> None:
        """Something that happened to the resource outside its engine: an event like the engine's."""
        self._record(Notice(severity, name, text, time.time_ns()))
        self._announce()

    def _shown(self) -> list[Shown]:
        return [] if self._running is None else self._running.verified()

    def device_status(self) -> KernelDeviceStatus:
        """The kernel device, for the report."""
        return self._device.status()

    def arbiter_report(self) -> ArbiterReport:
        """How its arbiter does, for the report."""
        if self._arbitration is None:
            return arbiter_report(self.config, self._judges)
        return self._arbitration.report()

    async def status(self) -> EngineStatus | None:
        """What the engine says; None where there is none. Raises `BlockpairError`."""
        running = self._running
        return None if running is None else await asyncio.to_thread(running.status)

    async def known(self, key: Key) -> Known:
        """What engine and peer know of the configuration that has this key. Raises `ArbiterUnreachable`."""
        try:
            status = await self.status()
        except BlockpairError as error:
            raise ArbiterUnreachable(f"the engine says nothing: {error.message}") from None
        if self._fencing is None or status is None or status.resource_id != key.resource_id:
            return Known((), met=False)
        return await self._fencing.known(key, status)

    async def tell(self, key: Key, entered: Configuration) -> None:
        """Have the peer know what was entered, if it can be reached at once."""
        with contextlib.suppress(BlockpairError):
            status = await self.status()
            if self._fencing is not None and status is not None:
                await self._fencing.tell(key, status, entered)

    async def check_disk(self) -> None:
        """Raises `BlockpairError`, also kept as `failure`, where another disk than the last one is in the
        place of one whose metadata are elsewhere: names of devices change from one boot to the next.
        """
        if self.config.metadata is None:
            return
        known = await asyncio.to_thread(self.disk.get)
        found = await asyncio.to_thread(look_at, self.config.device)
        failure = another(self.config, known, found.identity)
        if failure is not None:
            self._start_failed(failure)
            raise failure

    def _start_failed(self, error: BlockpairError) -> None:
        """Keep why, and log what was not told already."""
        told, self.failure = self.failure, error
        if told is None or told.message != error.message:
            self._log.error("resource.start-failed", text=error.message, remedy=error.remedy)

    async def start(self, listener: _engine.Listener, desired: Desired) -> None:
        """Start the engine, Primary again if it was in this boot. Raises `BlockpairError`, also kept as
        `failure`.
        """
        try:
            socket = check_socket_path(self._places.nbd_socket(self.config.name))
            # The daemon's lock is held, so a socket that is there was left by a daemon that was killed.
            socket.unlink(missing_ok=True)
            connect = not desired.disconnected
            self._running = await asyncio.to_thread(
                Running,
                self.config,
                self._node,
                listener,
                socket=str(socket),
                bundles=str(self._places.bundles(self.config.name)),
                history=str(self._places.history_file(self.config.name)),
                resume=self._marker.is_set(),
                stale_generation=self._stale.get(),
                connect=connect,
                answer=max(self._judges.answer_seconds(peer.name) for peer in self.config.peers),
                watchdog=self._watchdog,
            )
        except BlockpairError as error:
            self._start_failed(error)
            raise
        self.failure = None
        try:
            await asyncio.to_thread(lambda: self.disk.note(look_at(self.config.device).identity))
        except OSError as error:
            self._log.error("resource.marker-not-written", text=f"{error.filename}: {error.strerror}")
        if self.config.arbiter != MANUAL:
            self._arbitration = Arbitration(self.config, self._running, self._judges)
        self._watched = self._running.event_fd()
        asyncio.get_running_loop().add_reader(self._watched, self._collect)
        if self._arbitration is not None:
            self._arbitration.wake()
        if not connect:
            for peer in self.config.peers:
                if peer.name not in desired.disconnected:
                    await self.call("connect", peer=peer.name)
        self._log.info("resource.up", device=str(self.config.device))

    async def call(self, command: str, **arguments: object) -> None:
        """Have the engine carry out a command. Raises `BlockpairError`."""
        await asyncio.to_thread(self.engine().call, command, by=asked_by.get(), **arguments)

    async def readdress(self, peers: tuple[Peer, ...]) -> None:
        """From here on the peers are where ``peers`` says, which has the same names. Raises
        `BlockpairError`.
        """
        for old, new in zip(self.config.peers, peers, strict=True):
            if (old.name, old.addresses) == (new.name, new.addresses):
                continue
            addresses = [{"host": at.host, "port": at.port} for at in new.addresses]
            await self.call("readdress", peer=old.name, addresses=addresses)
            where = ", ".join(map(str, new.addresses)) or "lost"
            self._log.info("peer.readdressed", peer=old.name, addresses=where)
        self.config = replace(self.config, peers=peers)

    def loss(self, peer: str) -> SideLoss:
        """What this node changed that ``peer`` lacks. May take minutes; for a thread."""
        bundles = self._places.bundles(self.config.name)
        return side_loss(self.config, self._node, peer, running=self._running, bundles=bundles)

    async def consult(self, peer: str, *, report: bool) -> tuple[Plan, str | None]:
        """What a connect would do, and what the peer's daemon says of its data. Raises `BlockpairError`."""
        return await asyncio.to_thread(self.engine().consult, peer, report=report)

    def serves_until(self) -> float:
        """As `Running.serves_until`; 0 while the resource is down."""
        return 0.0 if self._running is None else self._running.serves_until()

    def engine(self) -> Running:
        """The engine. Raises `BlockpairError` while there is none."""
        if self._running is None:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"the resource {self.config.name} is down",
                f"blockpair up {self.config.name}",
            )
        return self._running

    async def become_primary(self, *, force: bool) -> bool:
        """Become Primary; whether it was before. With an arbiter, and without ``force``, that may take as
        long as the arbiter is away: to be called without `lock`. Raises `BlockpairError`.
        """
        running = self.engine()
        status = await asyncio.to_thread(running.status)
        was_primary = status.role == "Primary"
        # Without a disk it cannot become Primary at all: the engine says so.
        if not was_primary and status.disk != "Diskless":
            away = [peer.name for peer in status.peers if peer.connection != "Connected"]
            await asyncio.gather(*map(self._check_not_primary, away))
        try:
            await self.call("promote", force=force)
        except BlockpairError as error:
            # The engine only knows that no answer came.
            if error.kind is ErrorKind.FAILED and self.arbiter_report().state == "unreachable":
                error.kind = ErrorKind.UNREACHABLE
            raise
        return was_primary

    async def offer(self, *, was_primary: bool) -> None:
        """Offer the device of a node that is Primary now. Raises `BlockpairError`, and then it is Primary
        only if ``was_primary``.
        """
        running = self.engine()
        try:
            await asyncio.to_thread(self._marker.set)
            await asyncio.to_thread(lambda: self._device.attach(running, running.status()))
        except BaseException:
            if not was_primary:
                await self.call("demote")
                await asyncio.to_thread(self._marker.clear)
            raise

    async def _check_not_primary(self, peer: str) -> None:
        """Raises `BlockpairError` where a peer that is not connected answers that it is Primary: that is a
        fact, which no force overrides. No answer in time leaves the doubt, which the engine judges.
        """
        try:
            async with asyncio.timeout(_ROLE_PATIENCE_SECONDS):
                found, _ = await self.consult(peer, report=False)
        except TimeoutError:
            return
        if peer_is_primary(found):
            name = self.config.name
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{peer} is Primary of {name}: it is not connected, and said so when it was asked just now",
                f"connect them, and it can be moved: blockpair connect {name} (on both), then blockpair "
                f"switchover {name}; or demote it there first: blockpair demote {name} (on {peer}); "
                f"what a connect would do: blockpair plan {name}",
            )

    async def demote(self) -> None:
        """Take the device away and become Secondary. Raises `BlockpairError` that names who still uses it."""
        running = self.engine()
        await self._take_from_users(running)
        try:
            await self.call("demote")
        except BlockpairError:
            # Still Primary: its users find their device again.
            await asyncio.to_thread(lambda: self._device.attach(running, running.status()))
            raise
        await asyncio.to_thread(self._marker.clear)

    async def restore(self, bundle: Path) -> int:
        """Write a bundle's blocks back through the device, which nobody may use meanwhile; the bytes. Raises
        `BlockpairError`.
        """
        running = self.engine()
        status = await asyncio.to_thread(running.status)
        name = self.config.name
        if status.role != "Primary" or status.resuming:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{self._node} is not Primary of {name}: it may not write",
                f"blockpair promote {name}, here; or copy the bundle to the Primary and name its path there",
            )
        await self._take_from_users(running)
        try:
            return await asyncio.to_thread(bridge.restore_bundle, bundle, self._places.nbd_socket(name))
        finally:
            await asyncio.to_thread(lambda: self._device.attach(running, running.status()))

    async def fail_io(self) -> None:
        """Have the kernel device answer with errors from now on; nothing where there is none."""
        if self._device.attached:
            await asyncio.to_thread(self._device.abandon)

    async def prepare(self) -> None:
        """Make the next promotion a quick one."""
        await asyncio.to_thread(self._device.prepare)

    async def _take_from_users(self, running: Running) -> None:
        """Take the kernel device down. Raises `BlockpairError` that names who uses it, or the NBD socket."""
        status = await asyncio.to_thread(running.status)
        users = [await asyncio.to_thread(describe, c) for c in status.clients if c.kind == "unix"]
        if users:
            raise BlockpairError(
                ErrorKind.IN_USE,
                f"the NBD socket of {self.config.name} is in use by " + "; ".join(dict.fromkeys(users)),
                "stop those programs, then try again",
            )
        await asyncio.to_thread(self._device.detach, running)

    async def down(self) -> None:
        """Demote if Primary, and end the engine in good order. Raises `BlockpairError`, and then it still
        runs.
        """
        running = self._running
        if running is None:
            return
        status = await asyncio.to_thread(running.status)
        self._check_not_stand_in(status)
        if status.state == "running" and (status.role == "Primary" or status.resuming):
            await self._take_from_users(running)
            try:
                await self.call("demote")
            except BlockpairError as error:
                if error.kind is not ErrorKind.FAILED:
                    raise
                # A disk that cannot flush must not keep the resource up: stopped as Primary, its metadata say
                # what may differ.
                self._log.error("resource.demote-failed", text=error.message)
        await asyncio.to_thread(self._device.abandon)
        await self._leave(running)
        await self._stop(running)
        await asyncio.to_thread(self._marker.clear)
        self._log.info("resource.down")

    def _check_not_stand_in(self, status: EngineStatus) -> None:
        """Raises `BlockpairError` where a Primary without a disk lives on this node's copy."""
        for peer in status.peers:
            if (peer.connection, peer.role, peer.disk) == ("Connected", "Primary", "Diskless"):
                name = self.config.name
                raise BlockpairError(
                    ErrorKind.UNSAFE,
                    f"{peer.name} has no disk and goes on through {self._node}: all I/O of {name} would fail",
                    f"demote it first: blockpair demote {name} (on {peer.name})",
                )

    async def suspend(self) -> None:
        """The daemon ends: stop the engine, keep the role and the kernel device for the next daemon."""
        if self._running is not None:
            try:
                await self._leave(self._running)
                await self._stop(self._running)
            except BlockpairError as error:
                # What it could not finish, the next start finds in the metadata.
                self._log.error("resource.stop-failed", text=error.message, remedy=error.remedy)
            await asyncio.to_thread(self._device.leave)

    async def _leave(self, running: Running) -> None:
        if self._fencing is not None:
            with contextlib.suppress(BlockpairError):
                await self._fencing.leaving(await asyncio.to_thread(running.status))

    async def _stop(self, running: Running) -> None:
        # Not stopped, it still has its disk and its locks: it stays ours, to be asked again.
        await asyncio.to_thread(running.stop)
        await self.verifying.close()
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None
        if self._arbitration is not None:
            # To the end of the engine it may need the arbiter's word.
            await self._arbitration.end()
            self._arbitration = None
        self._running = None
        self._announce()

    async def reconcile(self) -> None:
        """Make the kernel device and the marker fit the engine's role, which changes by itself too: after a
        restart, a failure, a failover, or a dead connection.
        """
        running = self._running
        if running is None:
            return
        status = await asyncio.to_thread(running.status)
        await self.verifying.keep(status)
        if status.state == "running" and status.disk == "Diskless":
            await asyncio.to_thread(self._marker.clear)
        elif status.state == "running" and status.arbitration is not None and not status.resuming:
            # It became Primary, or was superseded, without a command.
            await asyncio.to_thread(self._mark, status.role == "Primary")
        if self._fencing is not None:
            await self._fencing.seen(status)
        if status.state == "running" and status.role == "Primary" and not status.resuming:
            if self._device.attached:
                await asyncio.to_thread(self._device.mend, running, status)
            elif self._device.status().error is None:
                await asyncio.to_thread(self._device.attach, running, status)
        elif not status.resuming and await asyncio.to_thread(self._device.abandon):
            self._log.error(
                "resource.device-taken-down", text="this node may not write: I/O on it fails from now on"
            )
        elif status.arbitration is not None and status.role == "Secondary":
            await asyncio.to_thread(self._device.prepare)

    def _mark(self, primary: bool) -> None:
        if primary != self._marker.is_set():
            (self._marker.set if primary else self._marker.clear)()

    def _collect(self) -> None:
        running = self._running
        if running is not None:
            for notice in running.events():
                self._record(notice)
                if notice.name in ("disk.detached", "disk.served"):
                    self._forget_role(running, served=notice.name == "disk.served")
            self.verifying.look()
            # After the events, which take the wake-up back: who asks from here on gives another.
            for peer in running.reports_asked():
                self._report_to(running, peer)
            if self._arbitration is not None:
                self._arbitration.wake()
            self._stir()
        self._announce()

    def _forget_role(self, running: Running, *, served: bool) -> None:
        """Metadata that failed may come back to life with the next start, and say what is no longer true: a
        daemon that starts must not make this node Primary by itself.
        """
        try:
            self._marker.clear()
            if served:
                self._stale.set(running.status().generation.current)
        except OSError as error:
            self._log.error("resource.marker-not-written", text=f"{error.filename}: {error.strerror}")
        except BlockpairError as error:
            self._log.error("resource.marker-not-written", text=error.message)

    def _report_to(self, running: Running, peer: str) -> None:
        """Tell a peer that asks what this node would lose; one at a time, for whoever asks meanwhile."""
        if peer in self._reporting:
            return
        self._reporting.add(peer)

        def work() -> None:
            try:
                text = encode_report(self.loss(peer))
            finally:
                # First: who asks from here on has a report made anew, who asked before hears this one.
                self._reporting.discard(peer)
            running.report(peer, text)

        # The end of the daemon must not wait for a tool that reads a whole file system.
        Thread(target=work, name="bp-report", daemon=True).start()

    def _record(self, notice: Notice) -> None:
        at = utc(datetime.fromtimestamp(notice.time_ns / 1e9, UTC))
        self._events.append(EventRecord(at, notice.severity, notice.name, notice.text))
        getattr(self._log, notice.severity if notice.severity in ("warning", "error") else "info")(
            notice.name, text=notice.text
        )

    def _announce(self) -> None:
        previous, self._changed = self._changed, asyncio.Event()
        previous.set()
