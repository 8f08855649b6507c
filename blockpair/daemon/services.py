"""The services of all resources on this node: who looks after each, and the commands on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from blockpair.cluster.server import PeerMethod
from blockpair.config.arbiter import MANUAL
from blockpair.config.locations import Locations
from blockpair.daemon.desired import BootMarker
from blockpair.daemon.manager import Manager
from blockpair.daemon.service_files import Definition, Places
from blockpair.daemon.service_replica import EngineReplica
from blockpair.daemon.service_runner import ServiceRunner
from blockpair.daemon.switchover import Moves, Switched
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.plan import Limits, Wish
from blockpair.failover.progress import Outcome
from blockpair.failover.units import machine_stops
from blockpair.status.report import ServiceStatus

_LOOK_SECONDS = 0.5
# Less than the service manager gives the daemon.
_LEAVE_SECONDS = 90.0
# Of these, what the move to the other node may take; the rest is for taking it down here.
_MOVE_SECONDS = 45.0


class Services:
    """``methods``: what members of the cluster may call; its own are added."""

    def __init__(self, manager: Manager, watchdog: NodeWatchdog, methods: dict[str, PeerMethod]) -> None:
        self._manager = manager
        self._watchdog = watchdog
        self._runners: dict[str, ServiceRunner] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._log = structlog.get_logger().bind(part="service")
        self._looking: asyncio.Task[None] | None = None
        self._moves = Moves(manager, self.runner)
        methods.update(self._moves.peer_methods())
        manager.reports.service_status = self.status

    def status(self, name: str) -> ServiceStatus | None:
        """What follows the data of a resource; None where nothing does."""
        runner = self._runners.get(name)
        if runner is not None:
            return runner.status()
        if self.definition(name) is None:
            return None
        return ServiceStatus(state="stopped", why=None, remedy=None, vips=[], last=None)

    def states(self) -> dict[str, ServiceStatus]:
        """Of every resource that has a service."""
        found = {name: self.status(name) for name in self._manager.names()}
        return {name: status for name, status in found.items() if status is not None}

    def definition(self, name: str) -> Definition | None:
        """What the cluster's configuration says now; None where nothing follows the data."""
        configuration = self._manager.configuration
        content = None if configuration is None else configuration.content
        entry = None if content is None else content.resource.get(name)
        if entry is None:
            return None
        found = Definition(name, entry.service)
        return None if found.service.empty else found

    # -- Commands

    async def promote(self, name: str, *, force: bool, without_service: bool = False) -> None:
        """Make this node Primary, and bring the service up unless it is to stay down. Raises
        `BlockpairError`, and then, unless by ``force``, the node is what it was.
        """
        self._manager.runtime(name)
        runner = await self.runner(name)
        if without_service:
            await self._promote_alone(runner, force=force)
            return
        if runner.definition is None:
            await self._manager.promote(name, force=force)
            return
        with runner.command():
            if force:
                await self._manager.promote(name, force=True)
            await self.succeed(runner, Wish.PROMOTE)

    async def _promote_alone(self, runner: ServiceRunner, *, force: bool) -> None:
        name = runner.name
        with runner.command():
            await runner.quiet()
            if runner.present:
                raise BlockpairError(
                    ErrorKind.UNSAFE,
                    f"the service of {name} is up here",
                    f"blockpair demote {name}; then repeat",
                )
            # First: a daemon that is killed in between must not mount what somebody is about to make anew.
            await asyncio.to_thread(runner.hold)
            try:
                await self._manager.promote(name, force=force)
            except BaseException:
                await asyncio.to_thread(runner.hold, down=False)
                raise
            await asyncio.to_thread(runner.move, begun=False)

    async def demote(self, name: str, *, kill_users: bool = False) -> None:
        """Take the service down and make this node Secondary. Raises `BlockpairError`, and then the service
        is up as before.
        """
        self._manager.runtime(name)
        runner = await self.runner(name)
        with runner.command():
            await asyncio.to_thread(runner.move, begun=False)
            await runner.quiet()
            if runner.present:
                await self.succeed(runner, Wish.DEMOTE, kill_users=kill_users)
            # Where nothing of a service was here, or this node was about to be Primary again after a restart.
            await self._manager.demote(name)

    async def down(self, name: str) -> None:
        """Take the service and the resource down. Raises `BlockpairError`."""
        runner = self._runners.get(name)
        if runner is None:
            await self._manager.down(name)
            # Of a switchover that an earlier daemon began: the next `up` makes nobody Primary.
            await asyncio.to_thread(self._marker(name, "moving").clear)
            return
        with runner.command():
            await asyncio.to_thread(runner.move, begun=False)
            await runner.quiet()
            if runner.present:
                await self.succeed(runner, Wish.DEMOTE)
            await self._manager.down(name)

    async def switchover(self, name: str, *, to: str | None, why: str, kill_users: bool = False) -> Switched:
        """Move a resource with its service to another node. Raises `BlockpairError` that says where it is."""
        return await self._moves.switchover(name, to=to, why=why, kill_users=kill_users)

    async def succeed(self, runner: ServiceRunner, wish: Wish, *, kill_users: bool = False) -> None:
        """Have a wish carried out. Raises `BlockpairError` where that did not succeed."""
        result = await runner.carry_out(wish, kill_users=kill_users)
        if result.outcome is not Outcome.DONE:
            raise runner.error(result)

    # -- Life

    def start(self) -> None:
        """Look after the services of the resources that are up, until `end`."""
        self._looking = asyncio.create_task(self._look())

    async def end(self) -> None:
        """The daemon ends: addresses go, everything else stays for the next one. Where the machine itself
        goes down, services move to the other node, or are taken down, before the disk is gone.
        """
        if any(runner.present for runner in self._runners.values()) and await machine_stops():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await asyncio.gather(*(self._leave(runner) for runner in self._runners.values()))
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(runner.close() for runner in self._runners.values()))

    async def _look(self) -> None:
        try:
            while True:
                for name in {*self._manager.running(), *self._left_up()}:
                    try:
                        await self.runner(name)
                    except Exception:
                        # The others are looked after all the same.
                        self._log.exception("service.not-watched", resource=name)
                await self._leave_idle()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for task in self._watches.values():
                task.cancel()
            await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _leave_idle(self) -> None:
        """Look no more after resources that are down, or gone."""
        wanted = {*self._manager.running(), *self._left_up()}
        for name, runner in list(self._runners.items()):
            if name not in wanted and runner.at_rest:
                # First: a command that comes meanwhile gets another one, and not one that ends.
                del self._runners[name]
                task = self._watches.pop(name)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await runner.close()

    def _left_up(self) -> list[str]:
        """Those that may be up while their resource is not: a daemon was killed in between."""
        folder = self._manager.places.service_file("x", "definition").parent
        return [file.stem for file in folder.glob("*.definition")]

    async def _leave(self, runner: ServiceRunner) -> None:
        if not runner.present:
            return
        try:
            async with asyncio.timeout(_MOVE_SECONDS):
                await self.switchover(runner.name, to=None, why="this machine goes down")
            return
        except BlockpairError as error:
            self._log.warning("service.not-moved", resource=runner.name, text=error.message)
        except TimeoutError:
            self._log.warning("service.not-moved", resource=runner.name, text=f"not in {_MOVE_SECONDS:g} s")
        try:
            with runner.command():
                await self.succeed(runner, Wish.DEMOTE, kill_users=True)
        except BlockpairError as error:
            self._log.error("service.not-stopped", resource=runner.name, text=error.message)

    async def runner(self, name: str) -> ServiceRunner:
        """Who looks after a resource's service; from here on somebody does."""
        runner = self._runners.get(name)
        if runner is None:
            made = self._make(name)
            await made.load()
            # Another may have come first while that was read.
            runner = self._runners.setdefault(name, made)
            if runner is made:
                self._watches[name] = asyncio.create_task(
                    runner.watch(lambda: self._changed(name), lambda: self._lease(name))
                )
        return runner

    def _make(self, name: str) -> ServiceRunner:
        places: Locations = self._manager.places
        for folder in (places.vips, places.service_file(name, "journal").parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        return ServiceRunner(
            name,
            EngineReplica(name, self._manager, self._watchdog),
            Places(
                places.service_file(name, "journal"),
                places.service_file(name, "device"),
                places.service_file(name, "definition"),
                places.vip_list(name),
            ),
            definition=lambda: self.definition(name),
            held=self._marker(name, "held"),
            moving=self._marker(name, "moving"),
            note=self._noting(name),
            limits=lambda: self._limits(name),
        )

    def _marker(self, name: str, what: str) -> BootMarker:
        return BootMarker(self._manager.places.service_file(name, what), self._manager.boot)

    def _noting(self, name: str) -> Callable[[str, str, str], None]:
        def note(severity: str, what: str, text: str) -> None:
            try:
                self._manager.runtime(name).note(severity, what, text)
            except BlockpairError:
                self._log.warning(what, resource=name, text=text)

        return note

    def _changed(self, name: str) -> asyncio.Event:
        try:
            return self._manager.runtime(name).changed
        except BlockpairError:
            return asyncio.Event()

    def _lease(self, name: str) -> float | None:
        try:
            config = self._manager.runtime(name).config
        except BlockpairError:
            return None
        return None if config.arbiter == MANUAL else config.arbitration.lease

    def _limits(self, name: str) -> Limits:
        # A promotion that waits for the arbiter ends by itself some seconds after the lease.
        limits = Limits()
        waits = self._lease(name) or 0.0
        return Limits(epoch=limits.epoch + waits, promote=limits.promote + waits)
