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
- A node that ends in good order need not be fenced: it first binds itself, durably, to change nothing while
  its record stands, and then gives the other its word (`resign`, `hear`). It is bound until it hears of a
  newer configuration, or the other, which still has the same one, has forgotten the word (`withdraw`).
- What the engine has learned from its peer is put into the record before the record is asked for.

Where the link is cut and both live, both fence. The static delay gives one of them a head start: the loser is
off before its own wait has ended. A failed fence decides nothing: the record stays, and so does the
suspension of writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
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
        # By resource id and node: in which epoch it need not be fenced, and how many swaps go by that.
        self._words: dict[tuple[str, str], int] = {}
        self._relying: Counter[tuple[str, str]] = Counter()
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
        with ExitStack() as relied:
            for node in excluded(self._node, expected, new):
                word = (key.resource_id, node)
                if expected is not None and self._words.get(word) == expected.epoch:
                    self._log.info("fence.not-needed", node=node, resource=key.name, epoch=expected.epoch)
                    relied.enter_context(self._relying_on(word))
                else:
                    await self._fence(key, node, met=known.met)
            # What was learned while a node was fenced is newer than what was expected.
            writing = asyncio.ensure_future(asyncio.to_thread(self._records.swap, key, expected, new))
            try:
                return await asyncio.shield(writing)
            except asyncio.CancelledError:
                # A word may not be taken back while something is written on the strength of it.
                await asyncio.wait([writing])
                raise

    async def learn(self, key: Key, known: Configuration) -> bool:
        """Put what the engine has entered, or heard from its peer, into the record; whether it was newer.

        Raises `ArbiterRefused`, also where two different configurations have one epoch.
        """
        if not await asyncio.to_thread(self._records.advance, key, known):
            return False
        self._log.info("record.learned", resource=key.name, epoch=known.epoch)
        return True

    async def resign(self, key: Key) -> int | None:
        """Bind this node to change nothing while its record stands; the record's epoch, in which the other
        may leave it out unfenced once it is told. None: there is no record. Raises `ArbiterRefused`.
        """
        await self._know(key)
        return await asyncio.to_thread(self._records.bind, key)

    async def resigned(self, key: Key) -> bool:
        """Whether this node is bound. Raises `ArbiterRefused`."""
        return await asyncio.to_thread(self._records.is_bound, key)

    async def withdraw(self, key: Key, epoch: int | None) -> None:
        """This node is bound no more, if its record is of ``epoch``: the other's, which has forgotten its
        word. Raises `ArbiterRefused`.
        """
        await self._know(key)
        await asyncio.to_thread(self._records.release, key, epoch)

    def hear(self, key: Key, node: str, epoch: int) -> None:
        """``node`` itself says that it is bound while its record is of ``epoch``."""
        self._words[(key.resource_id, node)] = epoch

    async def forget(self, key: Key, node: str) -> int | None:
        """``node`` itself takes back its word; the epoch of this node's record. Raises `ArbiterRefused`, also
        where a swap relies on that word at this moment.
        """
        word = (key.resource_id, node)
        if self._relying[word]:
            raise ArbiterRefused(
                f"{key.name} is being changed without {node}; remedy: it asks again by itself"
            )
        self._words.pop(word, None)
        held = await self._held(key)
        return None if held is None else held.epoch

    @contextmanager
    def _relying_on(self, word: tuple[str, str]) -> Iterator[None]:
        self._relying[word] += 1
        try:
            yield
        finally:
            self._relying[word] -= 1

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
