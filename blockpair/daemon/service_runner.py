"""One resource's service on this node: its runs, and what is done by itself between them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from blockpair.daemon.desired import BootMarker
from blockpair.daemon.service_addresses import UNSEEN, Addresses
from blockpair.daemon.service_files import Definition, DefinitionFile, Places
from blockpair.daemon.service_replica import EngineReplica, may_write_seconds, role_of
from blockpair.daemon.service_report import error_of, run_of, step_of
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.executor import Executor, Result, StepEvent, Way
from blockpair.failover.follow import Duty, Memory, Role, Seen, decide
from blockpair.failover.journal import Journal
from blockpair.failover.plan import UPWARD, Limits, Wish
from blockpair.failover.progress import Outcome, Progress, replay
from blockpair.status.engine import EngineStatus
from blockpair.status.report import ServiceRun, ServiceState, ServiceStatus, ServiceStep
from blockpair.status.service import remedy_for
from blockpair.vip_guard import drop_listed

_PERIOD_SECONDS, _IDLE_SECONDS = 0.5, 2.0


class ServiceRunner:
    """``definition``: what the configuration says now, None: nothing; ``held``: this node is to be Primary
    without its service; ``moving``: a switchover from here has begun and not ended; ``note``: severity, name
    and text of an event.
    """

    def __init__(
        self,
        name: str,
        replica: EngineReplica,
        places: Places,
        *,
        definition: Callable[[], Definition | None],
        held: BootMarker,
        moving: BootMarker,
        note: Callable[[str, str, str], None],
        limits: Callable[[], Limits],
    ) -> None:
        self.name = name
        self.replica = replica
        self._places = places
        self._configured = definition
        self._held = held
        self._moving = moving
        self.note = note
        self._log = structlog.get_logger().bind(resource=name)
        self.limits = limits
        self._file = DefinitionFile(places.definition)
        self._in_use: Definition | None = None
        self._addresses = Addresses(name, replica, places, note)
        self._memory = Memory()
        self._left: Progress | None = None
        self._turn = asyncio.Lock()
        self._runs: set[asyncio.Task[Result]] = set()  # the one that is under way, and who waits
        self._wish: Wish | None = None
        # Whether the run that is under way has seen this node serve, and whether it is on its way back.
        self._served = self._turned = False
        self._commands = 0
        self._moves = False
        self._begun = 0  # commands and runs: who looks, and then decides, sees whether one came in between
        self._closed = False
        self._steps: list[ServiceStep] = []
        self._role = Role.AWAY
        self._may_write = False
        self._last: ServiceRun | None = None
        self._problem: tuple[str, str] | None = None

    # -- What is

    @property
    def present(self) -> bool:
        """Whether something of the service may be here."""
        return self._in_use is not None

    @property
    def held(self) -> bool:
        """Whether this node is Primary without its service, because somebody wants that."""
        return self._role is Role.SERVING and self.stays_down

    @property
    def stays_down(self) -> bool:
        """Whether somebody wants it down while this node is Primary, whether or not that was seen yet."""
        return not self.present and self._held.is_set()

    @property
    def at_rest(self) -> bool:
        """Whether nothing of the service is here, and nobody is about to change that."""
        return not (self.present or self._commands or self._runs)

    @property
    def configured(self) -> Definition | None:
        """The definition that the configuration has now."""
        return self._configured()

    @property
    def definition(self) -> Definition | None:
        """The one that is up; else the configuration's."""
        return self._in_use or self._configured()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look after."""
        return not self.present and self._configured() is None and self._left is None

    def status(self) -> ServiceStatus | None:
        """For the report; None where nothing follows the data."""
        configured = self._configured()
        # A failure of a service that is defined no more, and of which nothing is here, is nobody's concern.
        if configured is None and not self.present:
            return None
        state, why, remedy = self._state()
        return ServiceStatus(
            state=state,
            why=why,
            remedy=remedy,
            vips=sorted(self._addresses.held),
            last=self._last,
            changed=self._in_use is not None and configured != self._in_use,
            held=self.held,
        )

    def _state(self) -> tuple[ServiceState, str | None, str | None]:
        if self._wish is not None:
            return ("starting" if self._wish in UPWARD else "stopping"), None, None
        if self._problem is not None and (self.present or self._role is not Role.AWAY):
            return "failed", *self._problem
        if self._in_use is None:
            return "stopped", None, None
        if self._memory.up and self._complete():
            return "up", None, None
        why = "they are about to be brought back"
        if self._role is Role.RESUMING:
            why = "this node waits for its peer's word before it is Primary again"
        elif not self._may_write:
            why = "this node may not write at this moment"
        return "suspended", why, None

    def _complete(self) -> bool:
        """Whether the addresses that should be here are."""
        wanted = () if self._in_use is None else self._in_use.service.vips
        return {str(one) for one in wanted} <= self._addresses.held

    # -- What is asked for

    async def load(self) -> None:
        """Take up what a daemon before this one left."""
        # Of a daemon that was killed together with its guard.
        await asyncio.to_thread(drop_listed, str(self._places.guard))
        try:
            self._in_use = await asyncio.to_thread(self._file.read)
        except BlockpairError as error:
            # Something may be here, and is looked after, or stopped, by the definition that there is.
            self._in_use = self._configured()
            if self._in_use is not None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._file.write, self._in_use)
            self._fail(error.message, error.remedy)
            self.note("error", "service.failed", error.message)
        try:
            self._left = replay(await asyncio.to_thread(Journal(self._places.journal).read))
        except BlockpairError as error:
            self._fail(error.message, error.remedy)
        if self._left is not None and (self._left.ended or self._in_use is None):
            self._left = None

    async def warm_up(self) -> None:
        """Load and start what the way up will need. Raises `BlockpairError`."""
        definition = self.definition
        if definition is not None:
            try:
                await self._addresses.warm_up(definition)
            except UNSEEN as error:
                raise BlockpairError(ErrorKind.FAILED, str(error), "see this node's log") from None

    async def carry_out(self, wish: Wish, *, kill_users: bool = False) -> Result:
        """A wish, within a `command`. Raises `BlockpairError` where it could not even begin, or was cut."""
        if wish in UPWARD:
            await asyncio.to_thread(self._held.clear)
        task = self._begin(wish, kill_users=kill_users)
        await asyncio.wait({task})
        if task.cancelled():
            raise BlockpairError(
                ErrorKind.FAILED,
                f"the {wish} of {self.name} was cut: this node may not serve it any more, or its daemon ends",
                f"blockpair status {self.name}",
            )
        return task.result()

    def error(self, result: Result) -> BlockpairError:
        """What to say of a run that did not do what it should."""
        return error_of(self.name, result, self.replica.refusal)

    @contextmanager
    def command(self, *, moves: bool = False) -> Iterator[None]:
        """Meanwhile nothing is brought up by itself; ``moves``: a switchover. Raises `BlockpairError` where
        one is under way.
        """
        if self._moves:
            raise BlockpairError(
                ErrorKind.BUSY, f"a switchover of {self.name} is under way", "repeat it when that has ended"
            )
        self._moves = moves
        self._commands += 1
        self._begun += 1
        try:
            yield
        finally:
            self._commands -= 1
            self._moves = self._moves and not moves

    async def quiet(self) -> None:
        """Within a command: wait until no run is under way. What is present is known then."""
        while self._runs:
            await asyncio.wait(set(self._runs))

    def hold(self, *, down: bool = True) -> None:
        """Whether this node is to be Primary without its service. Raises `OSError`."""
        (self._held.set if down else self._held.clear)()
        self._problem = None

    def move(self, *, begun: bool) -> None:
        """A switchover from here has begun, or ended. Raises `OSError`."""
        (self._moving.set if begun else self._moving.clear)()

    # -- What is done by itself

    async def watch(self, changed: Callable[[], asyncio.Event], lease: Callable[[], float | None]) -> None:
        """Follow the role, and keep the addresses as long as this node may have them, until cancelled. Both
        are told as `Addresses.watch` is.
        """
        async with asyncio.TaskGroup() as both:
            both.create_task(self._addresses.watch(changed, lease))
            both.create_task(self._follow(changed))

    async def _follow(self, changed: Callable[[], asyncio.Event]) -> None:
        while True:
            event = changed()
            try:
                await self._tick()
            except (BlockpairError, *UNSEEN) as error:
                if self._problem is None or self._problem[0] != str(error):
                    self.note("error", "service.failed", str(error))
                self._fail(
                    str(error), error.remedy if isinstance(error, BlockpairError) else "put that right"
                )
            except Exception:
                # It must not end: nobody else stops what may not be here.
                self._log.exception("service.watch-failed")
            # `wait_for` of Python 3.11 forgets a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS if self.idle else _PERIOD_SECONDS):
                    await event.wait()

    async def _tick(self) -> None:
        begun = self._begun
        status = await self.replica.status()
        self._role = role_of(status)
        self._may_write = may_write_seconds(status) > 0
        if self._memory.up and not self._runs and not await self._addresses.look():
            self._memory = Memory()
        if self._begun != begun:
            # What was seen is of before that: nothing follows from it.
            return
        if self._runs:
            self._served |= self._role is Role.SERVING
            if self._goes_up and self._served and self._role is Role.AWAY:
                await self._stop()
            return
        if self._commands:
            return
        await self._settle(status)
        if self._begun != begun:
            return
        seen = Seen(
            role=self._role,
            may_write=self._may_write,
            defined=self._configured() is not None,
            present=self.present,
            held=self._held.is_set(),
            moving=self._moving.is_set(),
            complete=self._complete(),
            unfinished=self._left,
        )
        match decide(seen, self._memory, time.monotonic()):
            case Duty.FINISH:
                self._begin(None)
            case Duty.BRING_UP:
                self._begin(Wish.FOLLOW)
            case Duty.TAKE_BACK:
                await self._take_back()
            case Duty.STOP:
                await self._stop()
            case Duty.NOTHING:
                pass

    @property
    def _goes_up(self) -> bool:
        """A way down that failed does too, on its way back."""
        return self._wish not in (None, Wish.STOP) and (self._wish in UPWARD) is not self._turned

    async def _settle(self, status: EngineStatus | None) -> None:
        """What is not so any more is forgotten, and what may be needed made ready."""
        if self._role is Role.AWAY and self._held.is_set():
            await asyncio.to_thread(self._held.clear)
        elif self._role is Role.SERVING and self.idle and not self._held.is_set():
            # What is defined later is brought up when somebody says so, and not in the middle of a
            # definition.
            await asyncio.to_thread(self._held.set)
        peers = [] if status is None else status.peers
        if self._moving.is_set() and (
            self._role is Role.SERVING or any(peer.role == "Primary" for peer in peers)
        ):
            await asyncio.to_thread(self._moving.clear)
        if self._role is Role.AWAY and not self.present and not self._moving.is_set():
            # What failed in an earlier time as Primary does not delay the next one.
            self._memory, self._problem = Memory(), None
            # It may have to take over at any time; what is wrong with it is told then.
            with contextlib.suppress(BlockpairError):
                await self.warm_up()

    async def _take_back(self) -> None:
        """A switchover ended in the middle, and nobody is Primary."""
        self.note("warning", "service.taken-back", "a switchover was cut: it goes on here")
        if self._configured() is not None:
            self._begin(Wish.PROMOTE)
            return
        try:
            await self.replica.promote()
        except BlockpairError as error:
            self._memory = self._memory.failed(time.monotonic())
            self.note("error", "service.failed", error.message)

    async def _stop(self) -> None:
        """Everything goes, the addresses first, whatever is under way."""
        self.note("warning", "service.stops", "this node is Primary no more: its service is stopped")
        if not await self._cut():
            # What waits for the device waits no more.
            with contextlib.suppress(BlockpairError):
                await self.replica.fail_io()
        self._left = None
        self._begin(Wish.STOP)

    async def _cut(self) -> bool:
        """The addresses go before anything is waited for. Whether what was under way has ended; a command of
        the engine that hangs is not waited for without end.
        """
        runs = set(self._runs)
        for run in runs:
            run.cancel()
        await self._addresses.drop()
        return not runs or not (await asyncio.wait(runs, timeout=self.limits().kill))[1]

    async def close(self) -> None:
        """The daemon ends: the addresses go, everything else stays for the next one."""
        self._closed = True
        await self._cut()

    # -- A run

    def _begin(self, wish: Wish | None, *, kill_users: bool = False) -> asyncio.Task[Result]:
        """``wish`` None: what a killed daemon left is finished. Raises `BlockpairError` at the end."""
        if self._closed:
            raise BlockpairError(ErrorKind.BUSY, "the daemon ends", "repeat it when it is back")
        task = asyncio.create_task(self._execute(wish, kill_users=kill_users))
        self._runs.add(task)
        self._begun += 1
        task.add_done_callback(lambda ended: self._ended(ended, wish))
        return task

    def _ended(self, task: asyncio.Task[Result], wish: Wish | None) -> None:
        self._runs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            remedy = error.remedy if isinstance(error, BlockpairError) else "see the daemon's log"
            self._fail(str(error), remedy, stopping=wish is Wish.STOP)
            self.note("error", "service.failed", str(error))

    def _fail(self, why: str, remedy: str, *, stopping: bool = False) -> None:
        self._memory = self._memory.failed(time.monotonic(), stopping=stopping)
        self._problem = (why, remedy)

    async def _execute(self, wish: Wish | None, *, kill_users: bool) -> Result:
        async with self._turn:
            # Here: another one that was under way may have come to that.
            if wish is Wish.PROMOTE and await self._is_up():
                return Result(wish, Outcome.DONE)
            definition = self.definition
            if definition is None:
                raise BlockpairError(ErrorKind.FAILED, f"nothing follows the data of {self.name}", "")
            machine = await self._addresses.machine(definition)
            executor = Executor(
                definition.service, machine, Journal(self._places.journal), self._tell, self.limits()
            )
            try:
                result = None
                left = None if wish is Wish.STOP else executor.unfinished()
                if wish in UPWARD or (left is not None and left.wish in UPWARD):
                    await self._offer()
                if left is not None:
                    result = await self._one(executor, definition, left.wish, resume=True)
                self._left = None
                if wish is not None and (
                    result is None or result.wish is not wish or result.outcome is not Outcome.DONE
                ):
                    result = await self._one(executor, definition, wish, kill_users=kill_users)
            except UNSEEN as error:
                raise BlockpairError(
                    ErrorKind.FAILED, f"this node's state cannot be seen: {error}", "put that right"
                ) from None
            assert result is not None
            return result

    async def _is_up(self) -> bool:
        return self._state()[0] == "up" and role_of(await self.replica.status()) is Role.SERVING

    async def _offer(self) -> None:
        """A node that became Primary by itself offers no device yet."""
        if role_of(await self.replica.status()) is Role.SERVING:
            await self.replica.offer()

    async def _one(
        self,
        executor: Executor,
        definition: Definition,
        wish: Wish,
        *,
        kill_users: bool = False,
        resume: bool = False,
    ) -> Result:
        was_present = self.present
        if wish in UPWARD and not was_present:
            await asyncio.to_thread(self._file.write, definition)
            self._in_use = definition
        self._wish, self._served, self._turned, self._steps = wish, wish is Wish.FOLLOW, False, []
        self._problem = self.replica.refusal = None
        began = time.monotonic()
        result: Result | None = None
        try:
            result = await (executor.resume() if resume else executor.run(wish, kill_users=kill_users))
            assert result is not None
            await self._conclude(result, was_present=was_present)
        finally:
            self._wish = None
            self._last = run_of(wish, result, time.monotonic() - began, self._steps)
            await self._addresses.seen(definition.service.vips)
        return result

    async def _conclude(self, result: Result, *, was_present: bool) -> None:
        """What a run that ended means."""
        up = result.wish in UPWARD
        if result.outcome is Outcome.DONE:
            self._memory = Memory(up=up)
        elif result.outcome is Outcome.UNDONE and not up:
            self._memory = Memory(up=self.present)
        else:
            self._fail(
                f"{result.wish} failed at the step '{result.step}': {result.why}",
                remedy_for(self.name, result.wish, result.step, result.why),
                stopping=result.wish is Wish.STOP,
            )
        gone = result.outcome is Outcome.DONE and not up
        if gone or (result.outcome is Outcome.UNDONE and up and not was_present):
            await asyncio.to_thread(self._file.remove)
            self._in_use = None
        if result.outcome is Outcome.DONE:
            where = "up" if up else "down"
            self.note("info", f"service.{where}", f"{result.wish}: {where} after {result.seconds:.2f} s")
        else:
            self.note(
                "error", "service.failed", f"{result.wish} {result.outcome}: {result.step}: {result.why}"
            )

    def _tell(self, event: StepEvent) -> None:
        if not self._turned and (event.way is Way.UNDO or not event.succeeded):
            # What was seen on the way there says nothing of the way back.
            self._turned, self._served = True, False
        address = event.step.removeprefix("vip ")
        if address != event.step and event.succeeded:
            came = (event.wish in UPWARD) == (event.way is Way.DO)
            self._addresses.stepped(address, came=came)
        self._steps.append(step_of(event))
        severity = "info" if event.succeeded and not event.problems else "warning"
        problems = f"; {'; '.join(event.problems)}" if event.problems else ""
        undone = "undone: " if event.way is Way.UNDO else ""
        self.note(
            severity, "service.step", f"{event.wish}: {undone}{event.what} ({event.seconds:.3f} s){problems}"
        )
