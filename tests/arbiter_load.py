"""Many pairs that fail over at once, by whatever arbiter: each resource has a runner of its own, and an
engine that wants to be Primary.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from blockpair.arbiter.interface import Arbiter, Configuration, Key, configuration
from blockpair.arbiter.runner import Runner


class Campaigner:
    """An engine whose peer is lost: it reads, swaps itself in, and reads again where somebody was quicker."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._ask: dict[str, object] | None = None
        self._number = 0
        self.runner: Runner | None = None
        self.entered: asyncio.Future[Configuration] = asyncio.get_running_loop().create_future()

    def campaign(self) -> None:
        """Begin."""
        self._put({"do": "read"})

    def asks(self) -> str:
        """See `Engine`."""
        return json.dumps(self._ask)

    def arbiter_says(self, ask: int, told: str) -> None:
        """See `Engine`."""
        if self._ask is None or self._ask["ask"] != ask:
            return
        document = json.loads(told)
        found = None if document is None else configuration(document)
        if found is not None and found.primary == self._node and self._ask["do"] == "swap":
            self._ask = None
            self.entered.set_result(found)
            return
        following = Configuration((found.epoch if found else 0) + 1, self._node, frozenset((self._node,)))
        self._put({"do": "swap", "expected": document, "next": following.document()})

    def _put(self, ask: dict[str, object]) -> None:
        self._number += 1
        self._ask = {"ask": self._number, **ask}
        assert self.runner is not None
        # As an event descriptor does: not from within the call.
        asyncio.get_running_loop().call_soon(self.runner.wake)


def keys(cluster: str, count: int) -> list[Key]:
    """As many resources."""
    return [Key(cluster, f"{number:032x}", f"r{number}") for number in range(count)]


async def create_all(arbiter: Arbiter, resources: Sequence[Key], primary: str, peer: str) -> None:
    """Have the arbiter hold both nodes in sync, in epoch 1."""
    first = Configuration(1, primary, frozenset((primary, peer)))
    done = await asyncio.gather(*(arbiter.compare_and_swap(key, None, first) for key in resources))
    assert all(done)


async def fail_over_all(arbiter: Arbiter, resources: Sequence[Key], node: str) -> list[float]:
    """``node`` loses the peer of all ``resources`` at once; after how many seconds it may write each of them,
    sorted.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    seconds: list[float] = []
    campaigners = []
    for key in resources:
        engine = Campaigner(node)
        engine.runner = Runner(key, engine, arbiter)
        engine.entered.add_done_callback(lambda _: seconds.append(loop.time() - began))
        campaigners.append(engine)
    try:
        for engine in campaigners:
            assert engine.runner is not None
            engine.runner.start()
            engine.campaign()
        entered = await asyncio.gather(*(engine.entered for engine in campaigners))
        assert all(found.primary == node for found in entered)
    finally:
        for engine in campaigners:
            assert engine.runner is not None
            await engine.runner.stop()
    return sorted(seconds)
