"""`FenceArbiter`: two nodes without a third. Whoever proves that the other is off may go on without it.

There is no shared register. Each node keeps a durable record of its own, and these rules make the two as good
as one:

- A swap after which a node need no longer confirm writes first switches that node off, and sees it off. A
  node that is off changes nothing, so no other record can be ahead of the one that is written then.
- A swap that leaves nobody out is only written: the other node is connected, and takes part in it, or had no
  part before.
- After a boot a record may be old: while this node was off, the other may have gone on, after it had switched
  this one off. So nobody is fenced before the two have met. Whoever is fenced and comes back therefore waits
  for the survivor, instead of switching it off; and a pair that starts cold waits for both, unless a person
  decides (`promote --force`).
- What the engine has learned from its peer is put into the record before the record is asked for.

Where the link is cut and both live, both fence. The static delay gives one of them a head start: the loser is
off before its own wait has ended. A failed fence decides nothing: the record stays, and so does the
suspension of writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from blockpair.arbiter.fence.fencer import FenceFailed, Fencer
from blockpair.arbiter.fence.monitor import Monitor
from blockpair.arbiter.fence.record import Records
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Configuration, Key


@dataclass(frozen=True)
class Known:
    """What a node's engine knows of a resource. ``configuration``: the newest that it knows to have been
    entered. ``met``: it has been through a handshake with the other node since this node was started, and
    ``configuration`` is not from before that.
    """

    configuration: Configuration | None
    met: bool


def excluded(node: str, expected: Configuration | None, new: Configuration) -> list[str]:
    """The nodes that ``node`` must have switched off before ``new`` may follow ``expected``. Pure."""
    if expected is None:
        return []
    before = expected.in_sync | {expected.primary}
    return sorted(before - new.in_sync - {node})


class FenceArbiter:
    """The `Arbiter` of ``node``, for any number of resources; its records are below ``directory``.
    ``known`` says what the engine of a resource knows; it is asked at the beginning of every call.
    """

    kind: Literal["fence"] = "fence"

    def __init__(
        self, node: str, fencer: Fencer, directory: Path, known: Callable[[Key], Awaitable[Known]]
    ) -> None:
        self._node = node
        self._fencer = fencer
        self._records = Records(directory)
        self._known = known
        self.monitor = Monitor(fencer, [other for other in fencer.fences if other != node])
        """How the devices do that this node would fence the others with."""
        self._watching: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(part="fence")

    async def read(self, key: Key) -> Configuration | None:
        """What this node's own record says."""
        await self._know(key)
        return await self._held(key)

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """As `Arbiter` says. Where it raises, the record was not changed, but a node may be off."""
        known = await self._know(key)
        if await self._held(key) != expected:
            return False
        for node in excluded(self._node, expected, new):
            await self._fence(key, node, met=known.met)
        # What was learned while a node was fenced is newer than what was expected.
        return await asyncio.to_thread(self._records.swap, key, expected, new)

    async def learn(self, key: Key, known: Configuration) -> bool:
        """Put what the engine has entered, or heard from its peer, into the record; whether it was newer.

        Raises `ArbiterRefused`, also where two different configurations have one epoch.
        """
        if not await asyncio.to_thread(self._records.advance, key, known):
            return False
        self._log.info("record.learned", resource=key.name, epoch=known.epoch)
        return True

    @property
    def ailing(self) -> str | None:
        """What is wrong with the devices, in a line; None: they work, or were not asked yet."""
        problems = [f"{state.node}: {state.problem}" for state in self.monitor.states if state.problem]
        return "; ".join(problems) or None

    def watch(self) -> None:
        """Monitor the other nodes' devices until `close`; in the event loop."""
        self._watching = asyncio.create_task(self.monitor.run())

    async def close(self) -> None:
        """Monitor nothing any more. Idempotent."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])

    async def _know(self, key: Key) -> Known:
        known = await self._known(key)
        if known.configuration is not None:
            await self.learn(key, known.configuration)
        return known

    async def _held(self, key: Key) -> Configuration | None:
        return await asyncio.to_thread(self._records.read, key)

    async def _fence(self, key: Key, node: str, *, met: bool) -> None:
        if node not in self._fencer.fences:
            raise ArbiterRefused(
                f"nothing says how to switch {node} off; remedy: add [fence.{node}] with `blockpair config "
                f"edit`, and try it: blockpair fence test {node}"
            )
        if not met:
            raise ArbiterRefused(
                f"{node} is not fenced: this node has not met it since it was started, and what it "
                f"remembers of {key.name} may be old; remedy: start {node}; if it is gone for good, or "
                f"certainly off: blockpair promote {key.name} --force"
            )
        try:
            await self._fencer.fence(node)
        except FenceFailed as error:
            raise ArbiterUnreachable(str(error)) from None
