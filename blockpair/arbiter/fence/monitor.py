"""`Monitor`: asks every fence device every minute whether it would work, before it has to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import structlog

from blockpair.arbiter.fence.fencer import Checked, Fencer

INTERVAL = 60.0


@dataclass(frozen=True)
class DeviceState:
    """How a device did, for status and metrics; times are seconds of the monitor's clock, None: never.

    ``works``: how the last monitoring ended; ``failures``: how many since it last worked.
    """

    node: str
    device: str
    agent: str
    works: bool | None = None
    problem: str | None = None
    checked_at: float | None = None
    worked_at: float | None = None
    seconds: float | None = None
    failures: int = 0


def after(state: DeviceState, found: Checked, now: float) -> DeviceState:
    """The state after a monitoring. Pure."""
    works = found.problem is None
    return replace(
        state,
        works=works,
        problem=found.problem,
        checked_at=now,
        worked_at=now if works else state.worked_at,
        seconds=found.seconds,
        failures=0 if works else state.failures + 1,
    )


class Monitor:
    """Watches the devices of ``nodes``: those that this node would have to fence."""

    def __init__(
        self,
        fencer: Fencer,
        nodes: Collection[str],
        *,
        interval: float = INTERVAL,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._fencer = fencer
        self._interval = interval
        self._now = now
        self._states = {
            (node, name): DeviceState(node, name, device.agent)
            for node in sorted(nodes)
            if node in fencer.fences
            for name, device in fencer.fences[node].devices
        }
        self._log = structlog.get_logger().bind(part="fence")

    @property
    def states(self) -> list[DeviceState]:
        """Of every device, in the configuration's order."""
        return list(self._states.values())

    async def run(self) -> None:
        """Monitor until cancelled: at once, then every ``interval`` seconds."""
        while True:
            await self.once()
            await asyncio.sleep(self._interval)

    async def once(self) -> None:
        """Monitor all devices: those of a node one after the other, nodes beside each other."""
        nodes = sorted({node for node, _ in self._states})
        await asyncio.gather(*(self._node(node) for node in nodes))

    async def _node(self, node: str) -> None:
        for found in await self._fencer.check(node, "monitor"):
            before = self._states[(node, found.device)]
            state = self._states[(node, found.device)] = after(before, found, self._now())
            if state.works is False and before.works is not False:
                self._log.error("fence.device-failed", node=node, reason=found.problem)
            elif state.works and before.works is False:
                self._log.info("fence.device-works", node=node, device=found.device)
