"""`Fencer`: cuts the power of nodes, and believes it only when every device says off."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from blockpair.arbiter.fence.agent import OFF, Action, AgentError, Result, run_agent
from blockpair.config.fence import Device, NodeFence

_MAX_SAID = 300


class FenceFailed(Exception):
    """A node that is not proved off; it may be all the same."""


@dataclass(frozen=True)
class Proof:
    """A node was off: every device of this level said so. ``seconds``: what it took, delay included."""

    node: str
    level: int
    seconds: float


@dataclass(frozen=True)
class Checked:
    """What came of one action of one device. ``problem``: None where it did what it should."""

    device: str
    agent: str
    seconds: float
    output: str
    code: int | None
    problem: str | None

    @property
    def power(self) -> str | None:
        """After ``status``: "on", "off", or None where it could not tell."""
        return None if self.problem is not None else "off" if self.code == OFF else "on"


def cuts_power(described: Checked) -> bool | None:
    """Whether an agent whose ``metadata`` this is cuts power; None: it does not say. Of those that cut a node
    off from storage or a network, none knows "reboot".
    """
    if described.problem is not None or "<action" not in described.output:
        return None
    return re.search(r"<action\s+name=\"reboot\"", described.output) is not None


Told = Callable[[str, Mapping[str, object]], None]
"""Hears what happens as it happens: an event's name, and its fields."""


def _log(event: str, fields: Mapping[str, object]) -> None:
    structlog.get_logger().warning(event, part="fence", **fields)


class Fencer:
    """Fences nodes by their devices, for all resources of this node. ``told``: by default, the log."""

    def __init__(self, fences: Mapping[str, NodeFence], told: Told = _log) -> None:
        self.fences = dict(fences)
        self._told = told
        self._fencing: dict[str, _Shared] = {}
        self._checks: dict[str, set[asyncio.Task[list[Checked]]]] = {}
        self._confirming: dict[tuple[str, int], asyncio.Task[bool]] = {}

    async def fence(self, node: str, *, delayed: bool = True) -> Proof:
        """Switch ``node`` off. Who asks while it is being done shares the proof: the node is seen off after
        both have asked. Without anybody left who waits for it, it is given up.

        Raises `FenceFailed`; `KeyError` where nothing says how.
        """
        shared = self._fencing.get(node)
        if shared is None:
            task = asyncio.create_task(self._fence(node, self.fences[node], delayed=delayed))
            shared = self._fencing[node] = _Shared(task, time.monotonic())
            task.add_done_callback(partial(self._ended, node, shared))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting and not shared.task.done():
                # Nobody may join it any more: what it has not proved yet, it will not prove.
                self._ended(node, shared, shared.task)
                shared.task.cancel()
                await asyncio.wait([shared.task])

    @property
    def under_way(self) -> dict[str, float]:
        """The nodes that are being switched off, and for how many seconds."""
        now = time.monotonic()
        return {node: now - shared.began for node, shared in self._fencing.items()}

    async def confirms(self, proof: Proof) -> bool:
        """Whether every device by which a node was seen off says so now. Whoever asks while that is being
        found out hears the same: many management boards speak with one at a time.
        """
        which = (proof.node, proof.level)
        running = self._confirming.get(which)
        if running is None:
            running = self._confirming[which] = asyncio.create_task(self._confirm(proof))
            running.add_done_callback(lambda _: self._confirming.pop(which))
        return await asyncio.shield(running)

    async def _confirm(self, proof: Proof) -> bool:
        levels, place = self.fences[proof.node].levels, proof.level - 1
        start = sum(len(level) for level in levels[:place])
        named = self.fences[proof.node].devices[start : start + len(levels[place])]
        found = [await self._act(name, device, "status") for name, device in named]
        return all(each.power == "off" for each in found)

    async def check(self, node: str, action: Action) -> list[Checked]:
        """Carry out ``monitor``, ``status`` or ``metadata`` with every device of ``node``, one after the
        other. Fencing goes first: meanwhile nothing is checked, and the list is empty.
        """
        if node in self._fencing:
            return []
        running = self._checks.setdefault(node, set())
        task = asyncio.create_task(self._check(self.fences[node], action))
        running.add(task)
        task.add_done_callback(running.discard)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        return [] if task.cancelled() else task.result()

    def _ended(self, node: str, shared: _Shared, _: asyncio.Task[Proof]) -> None:
        if self._fencing.get(node) is shared:
            del self._fencing[node]

    async def _check(self, fence: NodeFence, action: Action) -> list[Checked]:
        return [await self._act(name, device, action) for name, device in fence.devices]

    async def _fence(self, node: str, fence: NodeFence, *, delayed: bool) -> Proof:
        began = time.monotonic()
        checks = list(self._checks.get(node, ()))
        for task in checks:
            task.cancel()
        if checks:
            # Many management boards speak with one at a time.
            await asyncio.wait(checks)
        delay = fence.delay if delayed else 0.0
        self._told("fence.begun", {"node": node, "delay_s": delay})
        await asyncio.sleep(delay)
        named = fence.devices
        problems = []
        for number, devices in enumerate(fence.levels, 1):
            level, named = named[: len(devices)], named[len(devices) :]
            problem = await self._level(level)
            if problem is None:
                proof = Proof(node, number, time.monotonic() - began)
                told = {"node": node, "by_level": number, "seconds": round(proof.seconds, 3)}
                self._told("fence.done", told)
                return proof
            self._told("fence.level-failed", {"node": node, "by_level": number, "reason": problem})
            problems.append(problem)
        raise FenceFailed(f"{node} is not proved off: {'; '.join(problems)}")

    async def _level(self, devices: list[tuple[str, Device]]) -> str | None:
        """Off with all, then seen off by all: one that still feeds the node makes the others worthless."""
        for name, device in devices:
            done = await self._act(name, device, "off")
            if done.problem is not None:
                return done.problem
        for name, device in devices:
            seen = await self._act(name, device, "status")
            if seen.problem is not None:
                return seen.problem
            if seen.power != "off":
                return f"{name} said that it switched it off, and then that it is on"
        return None

    async def _act(self, name: str, device: Device, action: Action) -> Checked:
        try:
            result = await run_agent(device, action)
        except AgentError as error:
            return Checked(name, device.agent, 0.0, "", None, f"{name}: {error}")
        problem = _problem(action, result, device)
        return Checked(
            name,
            device.agent,
            result.seconds,
            result.output,
            result.code,
            None if problem is None else f"{name}: {action}: {problem}",
        )


@dataclass
class _Shared:
    task: asyncio.Task[Proof]
    began: float
    waiting: int = 0


def _problem(action: Action, result: Result, device: Device) -> str | None:
    """Why a result is no success. `status` succeeds with on and with off."""
    if result.code is None:
        return f"no answer within {device.timeout:g} s"
    good = (0, OFF) if action == "status" else (0,)
    if result.code in good:
        return None
    said = " ".join(result.output.split())[-_MAX_SAID:]
    ended = f"exit code {result.code}" if result.code >= 0 else f"killed by signal {-result.code}"
    return f"{ended}, it said: {said}" if said else ended
