"""Random writes under random disconnects and kills of either daemon: nothing acknowledged is ever lost.

``BLOCKPAIR_TORTURE_ROUNDS`` (25 unless more are asked for) and ``BLOCKPAIR_TORTURE_SEED`` (printed; random)
from the environment.
The seed fixes what is written and what is broken; the kernel's scheduling stays its own.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest

from tests.e2e.application import Application, synced_for_long
from tests.e2e.cluster import Cluster, eventually

SIZE = 32 << 20


class Torturer(Application):
    """Breaks the pair under its own writes."""

    # ---- what is broken

    def disconnect(self) -> None:
        """Disconnect on either node, under load; write alone; connect again."""
        node = self.random.choice(self.cluster.nodes)
        self.write(self.random.randrange(1, 100))
        node.rpc("resource.disconnect", name="r0")
        self.write(self.random.randrange(1, 300))
        if self.random.random() < 0.3:
            self.random.choice((self.kill_secondary, self.kill_primary))()
        node.rpc("resource.connect", name="r0")
        self.write(self.random.randrange(1, 100))

    def kill_secondary(self) -> None:
        """SIGKILL it under load, go on alone, start it."""
        self.write(self.random.randrange(1, 100))
        self.secondary.kill()
        self.write(self.random.randrange(1, 200))
        self.secondary.start()
        self.write(self.random.randrange(1, 100))

    def kill_primary(self) -> None:
        """SIGKILL it under load; its next daemon is Primary again."""
        self.write(self.random.randrange(1, 150))
        self.primary.kill()
        self.crashed()
        self.primary.start()
        self._becomes_primary()

    def kill_both(self) -> None:
        """SIGKILL both at once; the Primary resumes."""
        self.write(self.random.randrange(1, 150))
        pair = list(self.cluster.nodes)
        self.random.shuffle(pair)
        for node in pair:
            assert node.process is not None
            node.process.send_signal(signal.SIGKILL)
        for node in pair:
            node.kill()
        self.crashed()
        self.cluster.start(*pair)
        self._becomes_primary()

    def fail_over(self) -> None:
        """SIGKILL the Primary under load, promote the survivor, have the old one rejoin."""
        self.settle()
        self.write(self.random.randrange(1, 150))
        dead, survivor = self.primary, self.secondary
        dead.kill()
        self.crashed()
        self._wait(survivor, "disconnected")
        survivor.rpc("resource.promote", name="r0", force=True)
        self.primary, self.secondary = survivor, dead
        self.connect()
        self.write(self.random.randrange(1, 150))
        dead.start()
        self.write(self.random.randrange(1, 150))

    def hand_over(self) -> None:
        """Demote, and promote the other one, in good order."""
        self.settle()
        assert self.client is not None
        self.client.close()
        self.client = None
        eventually(lambda: not self._engine(self.primary)["clients"], "the client has gone")
        self.primary.rpc("resource.demote", name="r0")
        self.secondary.rpc("resource.promote", name="r0")
        self.primary, self.secondary = self.secondary, self.primary
        self.connect()
        self.write(self.random.randrange(1, 100))

    def interrupt_resync(self) -> None:
        """Kill either one as soon as a resync of some size runs."""
        self.primary.rpc("resource.disconnect", name="r0")
        self.write(600)
        self.primary.rpc("resource.connect", name="r0")
        self._wait(self.primary, "connected")
        self.random.choice((self.kill_primary, self.kill_secondary))()

    def nothing(self) -> None:
        """Just write."""
        self.write(self.random.randrange(100, 400))

    def round(self) -> None:
        """Break something, put it right, look."""
        if self.client is None:
            self.connect()
        events: list[tuple[int, Callable[[], None]]] = [
            (4, self.nothing),
            (6, self.disconnect),
            (5, self.kill_secondary),
            (4, self.kill_primary),
            (1, self.kill_both),
            (3, self.fail_over),
            (2, self.hand_over),
            (3, self.interrupt_resync),
        ]
        (event,) = self.random.choices([e for _, e in events], [w for w, _ in events])
        self.done[event.__name__] += 1
        event()
        self.check()


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_and_the_copies_end_equal(cluster: Cluster) -> None:
    rounds = int(os.environ.get("BLOCKPAIR_TORTURE_ROUNDS", "25"))
    seed = int(os.environ.get("BLOCKPAIR_TORTURE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"BLOCKPAIR_TORTURE_SEED={seed} BLOCKPAIR_TORTURE_ROUNDS={rounds}")
    synced_for_long(cluster, SIZE)
    torturer = Torturer(cluster, SIZE, seed)
    for number in range(rounds):
        try:
            torturer.round()
        except BaseException:
            print(f"failed in round {number + 1}; the rounds so far: {dict(torturer.done)}")
            raise
    torturer.end()
    print(f"{rounds} rounds, {torturer.oracle.acknowledged} acknowledged changes: {dict(torturer.done)}")
