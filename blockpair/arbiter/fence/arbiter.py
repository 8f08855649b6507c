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
- Whoever changes its record tells the other, and before a record is asked for it takes up what the engine
  and, where the two are connected, the other's record say. A node whose record is behind all the same takes
  over from nobody: its engine knows of a higher epoch.

Where the link is cut and both live, both fence. The static delay gives one of them a head start: the loser is
off before its own wait has ended. A failed fence decides nothing: the record stays, and so does the
suspension of writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import structlog

from blockpair.arbiter.fence.fencer import FenceFailed, Fencer, Proof
from blockpair.arbiter.fence.monitor import Monitor
from blockpair.arbiter.fence.record import Records, bound_text
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Configuration, Key


@dataclass(frozen=True)
class Known:
    """What is known of a resource beside the record. ``configurations``: that have been entered. ``met``:
    since this node was started, its record has been as new as the other node's. ``alone``: the engine wants
    to go on without the other node, which it does not reach, and could; then the epoch that it knows of.
    """

    configurations: tuple[Configuration, ...]
    met: bool
    alone: int | None = None


class Pair(Protocol):
    """The two nodes of each resource, as this one sees them."""

    async def known(self, key: Key) -> Known:
        """What the engine knows, and the other node's record says if that can be reached at once."""

    async def tell(self, key: Key, entered: Configuration) -> None:
        """Have the other node, if it can be reached at once, put ``entered`` into its record."""


def excluded(node: str, expected: Configuration | None, new: Configuration) -> list[str]:
    """The nodes that ``node`` must have switched off before ``new`` may follow ``expected``. Pure."""
    if expected is None:
        return []
    before = expected.in_sync | {expected.primary}
    return sorted(before - new.in_sync - {node})


class FenceArbiter:
    """The `Arbiter` of ``node``, for any number of resources; its records are below ``directory``.
    ``pair`` is asked at the beginning of every call, and told of every change.
    """

    kind: Literal["fence"] = "fence"

    def __init__(self, node: str, fencer: Fencer, directory: Path, pair: Pair) -> None:
        self._node = node
        self._fencer = fencer
        self._records = Records(directory)
        self._pair = pair
        self.monitor = Monitor(fencer, [other for other in fencer.fences if other != node])
        """How the devices do that this node would fence the others with."""
        self._watching: asyncio.Task[None] | None = None
        # By resource id and node: that it was seen off for that one's read; in which epoch it need not be
        # fenced, and how many swaps go by that.
        self._proofs: dict[tuple[str, str], Proof] = {}
        self._words: dict[tuple[str, str], int] = {}
        self._relying: Counter[tuple[str, str]] = Counter()
        self._log = structlog.get_logger().bind(part="fence")

    async def read(self, key: Key) -> Configuration | None:
        """What this node's own record says.

        Where the engine asks because it wants to go on alone, the answer waits until the other node is proved
        off: an engine that has its answer promises a new epoch, and does not take the other back from there
        on. So if they meet again before that, or nothing can be proved, nothing was promised.
        """
        known = await self._know(key)
        held = await self.held(key)
        if known.alone is None or held is None or self._node not in held.in_sync or held.epoch < known.alone:
            return held
        for node in sorted((held.in_sync | {held.primary}) - {self._node}):
            if self._words.get((key.resource_id, node)) != held.epoch:
                self._proofs[key.resource_id, node] = await self._fence(key, node, met=known.met)
        return await self.held(key)

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """As `Arbiter` says. Where it raises, the record was not changed, but a node may be off."""
        done = await self._swap(key, expected, new)
        if done:
            await self._pair.tell(key, new)
        return done

    async def _swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        known = await self._know(key)
        if await self.held(key) != expected:
            return False
        with ExitStack() as relied:
            for node in excluded(self._node, expected, new):
                word = (key.resource_id, node)
                if expected is not None and self._words.get(word) == expected.epoch:
                    self._log.info("fence.not-needed", node=node, resource=key.name, epoch=expected.epoch)
                    relied.enter_context(self._relying_on(word))
                elif not await self._is_off_still(key, node):
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

    async def hear(self, key: Key, node: str, epoch: int) -> None:
        """``node`` itself says that it is bound while its record is of ``epoch``. Raises `ArbiterRefused`."""
        held = await self.held(key)
        if held is not None and held.epoch == epoch:
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
        held = await self.held(key)
        return None if held is None else held.epoch

    @contextmanager
    def _relying_on(self, word: tuple[str, str]) -> Iterator[None]:
        self._relying[word] += 1
        try:
            yield
        finally:
            self._relying[word] -= 1

    def longest(self, node: str) -> float:
        """Seconds that it may take to prove ``node`` off, or to find that it cannot be."""
        fence = self._fencer.fences.get(node)
        return 0.0 if fence is None else fence.longest

    @property
    def under_way(self) -> dict[str, float]:
        """The nodes that are being switched off, and for how many seconds."""
        return self._fencer.under_way

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
        known = await self._pair.known(key)
        for configuration in known.configurations:
            await self.learn(key, configuration)
        return known

    async def held(self, key: Key) -> Configuration | None:
        """The record, whatever else is known. Raises `ArbiterRefused`."""
        return await asyncio.to_thread(self._records.read, key)

    async def _is_off_still(self, key: Key, node: str) -> bool:
        """Whether a node that was seen off is so now: it may have been switched on since."""
        proof = self._proofs.pop((key.resource_id, node), None)
        return proof is not None and await self._fencer.confirms(proof)

    async def _fence(self, key: Key, node: str, *, met: bool) -> Proof:
        if node not in self._fencer.fences:
            raise ArbiterRefused(
                f"nothing says how to switch {node} off; remedy: add [fence.{node}] with `blockpair config "
                f"edit`, and try it: blockpair fence test {node}"
            )
        if await self.resigned(key):
            raise ArbiterRefused(bound_text(key))
        if not met:
            raise ArbiterRefused(
                f"{node} is not fenced: this node has not met it since it was started, and what it "
                f"remembers of {key.name} may be old; remedy: start {node}; if it is gone for good, or "
                f"certainly off: blockpair promote {key.name} --force"
            )
        try:
            return await self._fencer.fence(node)
        except FenceFailed as error:
            raise ArbiterUnreachable(str(error)) from None
