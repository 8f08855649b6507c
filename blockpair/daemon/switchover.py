"""The planned move of a resource, with its service, from the Primary to its peer.

The Primary leads: it asks the peer to make ready, takes its own service down and hands over, then has the
peer take over. Until the hand-over a failure brings the service back here; afterwards, if the peer cannot
start it, it comes back here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from blockpair.cluster.peers import NoAnswer
from blockpair.cluster.server import PeerMethod
from blockpair.config.service import ServiceTable
from blockpair.daemon.asker import asked_by
from blockpair.daemon.manager import Manager
from blockpair.daemon.service_replica import is_primary, role_of, unready
from blockpair.daemon.service_report import step_of
from blockpair.daemon.service_runner import ServiceRunner
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.carrier import without_carrier
from blockpair.failover.executor import Result
from blockpair.failover.follow import Role
from blockpair.failover.plan import Limits, State, Wish, plan
from blockpair.failover.progress import Outcome
from blockpair.status.engine import EngineStatus
from blockpair.status.report import ServiceStep

_READY, _TAKE_OVER, _SWITCHOVER = "peer.service.ready", "peer.service.take-over", "peer.service.switchover"
_READY_SECONDS = 15.0
_READ_AHEAD_SECONDS = 3.0
# Beside what the steps of the other node may take.
_SPARE_SECONDS = 15.0
# Between two looks whether the other node is there, and how long it may be away.
_LOOK_SECONDS, _AWAY_SECONDS = 0.5, 10.0
_TO_THE_CLIENT = frozenset({"hook promoted"})


class Switched(Struct, frozen=True):
    """A switchover that succeeded. ``stopped_seconds``: from the first step down until the last that a client
    waits for; ``service``: whether one moved with the data; ``why``: what it was done for.
    """

    name: str
    from_node: str
    to_node: str
    service: bool
    stopped_seconds: float
    steps: list[ServiceStep]
    why: str


class ReadyParams(Struct, forbid_unknown_fields=True):
    """``table``: the service as the Primary's configuration has it; null: there is none."""

    name: str
    table: ServiceTable | None


class TakeOverParams(Struct, forbid_unknown_fields=True):
    """``service``: with it, or the role alone."""

    name: str
    service: bool


class SwitchoverParams(Struct, forbid_unknown_fields=True):
    """As `Moves.switchover` takes them."""

    name: str
    to: str | None
    kill_users: bool
    why: str


class TookOver(Struct, frozen=True):
    """How it ended: `Outcome`, and of a failure the step and why."""

    outcome: str
    step: str
    why: str
    steps: list[ServiceStep]


class Moves:
    """One node's part in it. ``runner``: who looks after the service of a resource."""

    def __init__(self, manager: Manager, runner: Callable[[str], Awaitable[ServiceRunner]]) -> None:
        self._manager = manager
        self._runner = runner
        self._log = structlog.get_logger().bind(part="service")

    @property
    def _node(self) -> str:
        return self._manager.node.name

    async def switchover(self, name: str, *, to: str | None, why: str, kill_users: bool) -> Switched:
        """Raises `BlockpairError` that says where the service is now."""
        runtime = self._manager.runtime(name)
        status = await runtime.status()
        if role_of(status) is Role.SERVING:
            runner = await self._runner(name)
            with runner.command(moves=True):
                await runner.quiet()
                status = await runtime.status()
                if status is None or role_of(status) is not Role.SERVING:
                    raise BlockpairError(
                        ErrorKind.UNSAFE,
                        f"{name} stays where it is: another command made {self._node} Secondary meanwhile",
                        f"blockpair status {name}",
                    )
                return await self._lead(runner, status, to, why=why, kill_users=kill_users)
        primary = None
        if status is not None and role_of(status) is Role.AWAY:
            connected = [peer for peer in status.peers if peer.connection == "Connected"]
            primary = next((peer.name for peer in connected if peer.role == "Primary"), None)
        if primary is None:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{name} is Primary on no node that is connected: there is nothing to move",
                f"blockpair promote {name}, on the node that is to serve it",
            )
        if to is not None and to == primary:
            raise _there_already(name, to)
        params = SwitchoverParams(name, to or self._node, kill_users, why)
        seconds = self._seconds(await self._runner(name), Wish.HAND_OVER)
        seconds += self._seconds(await self._runner(name), Wish.TAKE_OVER) + _READY_SECONDS
        answer = await self._call(primary, _SWITCHOVER, params, seconds)
        return msgspec.convert(answer, type=Switched)

    async def _lead(
        self, runner: ServiceRunner, status: EngineStatus, to: str | None, *, why: str, kill_users: bool
    ) -> Switched:
        name = runner.name
        target = self._target(status, to)
        if (reason := unready(status, target)) is not None:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{name} stays on {self._node}: {reason}",
                f"see what it waits for: blockpair status {name}; then repeat; with an arbiter, after "
                f"`blockpair wait {name} --until protected` on {self._node}",
            )
        configured, present, held = runner.configured, runner.present, runner.stays_down
        table = None if configured is None else configured.table
        await self._call(target, _READY, ReadyParams(name, table), _READY_SECONDS)
        runner.note("info", "switchover.begun", f"{name} moves from {self._node} to {target}: {why}")
        await asyncio.to_thread(runner.move, begun=True)
        began = time.monotonic()
        steps = await self._hand_over(runner, present=present, kill_users=kill_users)
        # Also one that did not come up here: perhaps it does there.
        service = configured is not None and not held
        took = await self._have_taken_over(runner, target, service=service)
        ended = time.monotonic()
        steps += [_at(target, step) for step in took.steps]
        if took.outcome != Outcome.DONE:
            raise await self._gone_back(runner, target, took, present=present, began=began)
        await asyncio.to_thread(runner.move, begun=False)
        # Nobody waits for what is done once the addresses are there.
        unseen = sum(step.seconds for step in took.steps if step.name in _TO_THE_CLIENT)
        stopped = round(ended - began - unseen, 4)
        runner.note("info", "switchover.done", f"{name} is on {target}; it was stopped for {stopped:.3f} s")
        return Switched(name, self._node, target, service, stopped, steps, why)

    def _target(self, status: EngineStatus, to: str | None) -> str:
        peers = [peer.name for peer in status.peers]
        if to == self._node:
            raise _there_already(status.resource, to)
        if to is not None and to not in peers:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{status.resource} has no copy on {to!r}",
                f"its other nodes are: {', '.join(peers)}",
            )
        if to is None and len(peers) != 1:
            raise BlockpairError(
                ErrorKind.USAGE, f"{status.resource} has several peers", "say which: --to NODE"
            )
        return to or peers[0]

    async def _hand_over(
        self, runner: ServiceRunner, *, present: bool, kill_users: bool
    ) -> list[ServiceStep]:
        """Raises `BlockpairError`; the service is up here as before, or the runner sees to it that it will
        be.
        """
        began = time.monotonic()
        if not present:
            await runner.replica.demote()
            return [ServiceStep("promote", "do", "become Secondary", _since(began), True, [], self._node)]
        result = await runner.carry_out(Wish.HAND_OVER, kill_users=kill_users)
        if result.outcome is not Outcome.DONE:
            raise runner.error(result)
        return self._steps(result)

    async def _have_taken_over(self, runner: ServiceRunner, target: str, *, service: bool) -> TookOver:
        seconds = self._seconds(runner, Wish.TAKE_OVER)
        params = TakeOverParams(runner.name, service)
        call = asyncio.ensure_future(self._call(target, _TAKE_OVER, params, seconds))
        away = 0.0
        try:
            while not (await asyncio.wait({call}, timeout=_LOOK_SECONDS))[0]:
                # The call may hang for as long as all steps may take: the engine knows sooner that it is
                # lost.
                status = await runner.replica.status()
                away = 0.0 if _connected(status, target) else away + _LOOK_SECONDS
                if role_of(status) is Role.SERVING or away > _AWAY_SECONDS:
                    return TookOver("unknown", "", f"{target} was lost meanwhile", [])
            return msgspec.convert(await call, type=TookOver)
        except NoAnswer as error:
            return TookOver("unknown", "", error.message, [])
        except BlockpairError as error:
            return TookOver(Outcome.UNDONE, "", error.message, [])
        finally:
            call.cancel()

    async def _gone_back(
        self, runner: ServiceRunner, target: str, took: TookOver, *, present: bool, began: float
    ) -> BlockpairError:
        """Bring it back here, and say what happened."""
        name = runner.name
        what = f"{target} could not take {name} over: {took.step + ': ' if took.step else ''}{took.why}"
        try:
            if present and runner.configured is not None:
                result = await runner.carry_out(Wish.PROMOTE)
                if result.outcome is not Outcome.DONE:
                    raise runner.error(result)
            else:
                await runner.replica.promote()
        except BlockpairError as error:
            if is_primary(await runner.replica.status(), target):
                # Its answer was lost, or it could not undo what it did.
                await asyncio.to_thread(runner.move, begun=False)
                runner.note("error", "switchover.failed", f"{what}; {target} is Primary")
                return BlockpairError(
                    ErrorKind.FAILED,
                    f"{name} is on {target}, but how its service is there is not known here: {took.why}",
                    f"blockpair status {name} (on {target})",
                )
            runner.note("error", "switchover.failed", f"{what}; and {self._node} neither: {error.message}")
            return BlockpairError(
                ErrorKind.FAILED,
                f"{what}; and it did not come back on {self._node}: {error.message}",
                f"see which node is Primary: blockpair status {name}; then there: blockpair promote {name}",
            )
        await asyncio.to_thread(runner.move, begun=False)
        stopped = f"{self._node} serves it again, after {_since(began):.3f} s"
        runner.note("error", "switchover.failed", f"{what}; {stopped}")
        return BlockpairError(
            ErrorKind.FAILED,
            f"{what}; {stopped}",
            f"put that right on {target}, then repeat: blockpair switchover {name} --to {target}",
        )

    def _steps(self, result: Result) -> list[ServiceStep]:
        return [_at(self._node, step_of(event)) for event in result.steps]

    def _seconds(self, runner: ServiceRunner, wish: Wish) -> float:
        """What a half of it may take at the most."""
        definition = runner.definition
        if definition is None:
            limits = Limits()
            return limits.promote + limits.demote + _SPARE_SECONDS
        # Both ways: what fails is undone before it answers.
        steps = plan(definition.service, State(), wish, limits=runner.limits(), kill_users=True)
        both = (rung.timeout for step in steps for rung in (*step.do, *step.undo))
        return sum(both) + _SPARE_SECONDS

    async def _call(self, node: str, method: str, params: Struct, seconds: float) -> Any:
        peers = self._manager.peers
        if peers is None:
            raise BlockpairError(ErrorKind.UNREACHABLE, f"{self._node} is in no cluster", "join one")
        return await peers.call(node, method, msgspec.to_builtins(params), timeout=seconds)

    # -- What the other member asks

    def peer_methods(self) -> dict[str, PeerMethod]:
        """Registered with the cluster's."""
        return {
            _READY: PeerMethod(ReadyParams, self._on_ready),
            _TAKE_OVER: PeerMethod(TakeOverParams, self._on_take_over),
            _SWITCHOVER: PeerMethod(SwitchoverParams, self._on_switchover),
        }

    async def _on_ready(self, caller: str, params: ReadyParams) -> Any:
        runner = await self._asked(caller, params.name)
        configured = runner.configured
        if params.table != (None if configured is None else configured.table):
            raise BlockpairError(
                ErrorKind.MISMATCH,
                f"{self._node} has another definition of the service of {params.name}",
                "blockpair config diff",
            )
        if runner.present:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"something of the service of {params.name} is still up on {self._node}",
                f"blockpair status {params.name} (on {self._node})",
            )
        status = await self._manager.runtime(params.name).status()
        if status is None or status.state != "running" or status.disk != "UpToDate":
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"the copy of {params.name} on {self._node} is not good enough",
                f"blockpair status {params.name} (on {self._node})",
            )
        vips = () if configured is None else configured.service.vips
        if dark := await asyncio.to_thread(without_carrier, (one.interface for one in vips)):
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"no client would reach {params.name} on {self._node}: no carrier on {', '.join(dark)}",
                f"see to that network's cable on {self._node}, then repeat",
            )
        await self._manager.runtime(params.name).prepare()
        await runner.warm_up()
        await self._read_ahead(params.name)

    async def _read_ahead(self, name: str) -> None:
        """What the Primary reads most, as far as a moment is enough: the rest is read meanwhile."""
        with contextlib.suppress(BlockpairError, TimeoutError):
            async with asyncio.timeout(_READ_AHEAD_SECONDS):
                await self._manager.warm_up(name)

    async def _on_take_over(self, caller: str, params: TakeOverParams) -> Any:
        runner = await self._asked(caller, params.name)
        asked_by.set(f"blockpaird of {caller}")
        if params.service:
            with runner.command():
                result = await runner.carry_out(Wish.TAKE_OVER)
            steps = [step_of(event) for event in result.steps]
            return TookOver(result.outcome, result.step, result.why, steps)
        began = time.monotonic()
        with runner.command():
            await asyncio.to_thread(runner.hold)
            await runner.replica.promote()
        return TookOver(
            Outcome.DONE, "", "", [ServiceStep("promote", "do", "become Primary", _since(began), True)]
        )

    async def _on_switchover(self, caller: str, params: SwitchoverParams) -> Any:
        await self._asked(caller, params.name)
        status = await self._manager.runtime(params.name).status()
        if role_of(status) is not Role.SERVING:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{self._node} is not Primary of {params.name} any more",
                f"blockpair status {params.name}",
            )
        return await self.switchover(params.name, to=params.to, why=params.why, kill_users=params.kill_users)

    async def _asked(self, caller: str, name: str) -> ServiceRunner:
        if not self._manager.judges.shares(name, caller):
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{caller} has no copy of {name} by the configuration here",
                "`blockpair config diff` shows whether the nodes agree",
            )
        self._manager.runtime(name)
        return await self._runner(name)


def _connected(status: EngineStatus | None, node: str) -> bool:
    """Whether the engine has that peer. One without a disk has none: then nothing is known."""
    if status is None or status.disk == "Diskless":
        return True
    return any(peer.name == node and peer.connection == "Connected" for peer in status.peers)


def _at(node: str, step: ServiceStep) -> ServiceStep:
    return msgspec.structs.replace(step, node=node)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 4)


def _there_already(name: str, node: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.USAGE, f"{node} is Primary of {name} already", "name the other node, or leave --to out"
    )
