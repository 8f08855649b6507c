"""`FenceArbiter`: two nodes without a third. Whoever proves that the other is off may go on without it.

There is no shared register. Each node keeps a durable record of its own, and these rules make the two as good
as one:

- A swap after which a node need no longer confirm writes first switches that node off, and sees it off. A
node that is off changes nothing, so no other record can be ahead of the one that is written then. - A swap
that leaves nobody out is only written: the other node is connected, and takes part in it, or had no part
before. - After a boot a record may be old: while this node was off, the other may have gone on, after it had
switched this one off. So nobody is fenced before the two have met. Whoever is fenced and comes back therefore
waits for the survivor, instead of switching it off; and a pair that starts cold waits for both, unless a
person decides (`promote --force`). - What the engine learns from its peer is put into the record (`learn`)
before the record is asked for again.

Where the link is cut and both live, both fence. The static delay gives one of them a head start: the loser is
off before its own wait has ended. A failed fence decides nothing: the record stays, and so does the
suspension of writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from blockpair.arbiter.fence.fencer import FenceFailed, Fencer
from blockpair.arbiter.fence.record import Records
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Configuration, Key

_MARGIN = 5.0


def excluded(node: str, expected: Configuration | None, new: Configuration) -> list[str]:
    """The nodes that ``node`` must have switched off before ``new`` may follow ``expected``. Pure."""
    if expected is None:
        return []
    before = expected.in_sync | {expected.primary}
    return sorted(before - new.in_sync - {node})


class FenceArbiter:
    """The `Arbiter` of ``node``, for any number of resources; its records are below ``directory``.

    ``peer_met``: whether this node has, since it was booted, been through a handshake with the resource's
    other node, and whatever configuration the engine then knew has been given to `learn`.
    """

    kind: Literal["fence"] = "fence"

    def __init__(self, node: str, fencer: Fencer, directory: Path, peer_met: Callable[[Key], bool]) -> None:
        self._node = node
        self._fencer = fencer
        self._records = Records(directory)
        self._peer_met = peer_met
        self._swapping: dict[str, asyncio.Lock] = {}
        self._writing: dict[str, asyncio.Lock] = {}
        self._log = structlog.get_logger().bind(part="fence")

    @property
    def longest_call(self) -> float:
        """Seconds that a call may take at most: all levels of the slowest node, until the last one's time is
        out.
        """
        return _MARGIN + max((fence.longest for fence in self._fencer.fences.values()), default=0.0)

    async def read(self, key: Key) -> Configuration | None:
        """What this node's own record says."""
        return await asyncio.to_thread(self._records.read, key)

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """As `Arbiter` says. Where it raises, the record was not changed, but a node may be off."""
        async with self._swapping.setdefault(key.resource_id, asyncio.Lock()):
            if await self.read(key) != expected:
                return False
            for node in excluded(self._node, expected, new):
                await self._fence(key, node)
            # `learn` does not wait for fencing: what it wrote meanwhile is newer than what was expected.
            async with self._lock(key):
                if await self.read(key) != expected:
                    return False
                await self._write(key, new)
        return True

    async def learn(self, key: Key, known: Configuration) -> bool:
        """Put what the engine has entered, or heard from its peer, into the record; whether it was newer.

        Raises `ArbiterRefused`, also where two different configurations have one epoch.
        """
        async with self._lock(key):
            held = await self.read(key)
            if held is not None and held.epoch >= known.epoch:
                if held.epoch == known.epoch and held != known:
                    raise ArbiterRefused(
                        f"epoch {held.epoch} of {key.name} is {held.document()} in this node's record and "
                        f"{known.document()} to its engine; remedy: find out which node has the newest data, "
                        f"and there: blockpair promote {key.name} --force"
                    )
                return False
            await self._write(key, known)
            self._log.info("record.learned", resource=key.name, epoch=known.epoch)
            return True

    async def close(self) -> None:
        """Nothing is held open. Idempotent."""

    def _lock(self, key: Key) -> asyncio.Lock:
        return self._writing.setdefault(key.resource_id, asyncio.Lock())

    async def _write(self, key: Key, new: Configuration) -> None:
        # Once begun, it ends: a caller that gives up must not leave the thread writing behind the lock's
        # back.
        writing = asyncio.ensure_future(asyncio.to_thread(self._records.write, key, new))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise

    async def _fence(self, key: Key, node: str) -> None:
        if node not in self._fencer.fences:
            raise ArbiterRefused(
                f"nothing says how to switch {node} off; remedy: add [fence.{node}] with `blockpair config "
                f"edit`, and try it: blockpair fence test {node}"
            )
        if not self._peer_met(key):
            raise ArbiterRefused(
                f"{node} is not fenced: this node has not met it since it was started, and what it "
                f"remembers of {key.name} may be old; remedy: start {node}; if it is gone for good, or "
                f"certainly off: blockpair promote {key.name} --force"
            )
        try:
            await self._fencer.fence(node)
        except FenceFailed as error:
            raise ArbiterUnreachable(str(error)) from None
