"""A whole node, or both, loses its power at random moments under a writer that syncs: nothing is lost.

A moment is a time, not a place in the program: it may fall into a write, a flush, the handshake, a resync, or
the start of a daemon. ``BLOCKPAIR_CUTS`` (50) and ``BLOCKPAIR_CUT_SEED`` (printed; random) are variables.
The seed fixes what is written, who is hit and after what time; the kernel's scheduling stays its own.
"""

from __future__ import annotations

import os
import random
import signal
import threading

import pytest

from tests.e2e.application import Application, synced_for_long
from tests.e2e.cluster import Cluster, Node
from tests.e2e.nbd_client import Command

SIZE = 8 << 20
# Long enough for a resync of what a cut left, short enough to fall into it as well.
LATEST_SECONDS = 0.08


class PowerCuts(Application):
    """Cuts the power under its own writes."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(cluster, SIZE, seed)
        self.settled = True

    def write_and_sync(self) -> None:
        """Some writes, then a flush, as fsync has them; returns when all are answered."""
        assert self.client is not None
        self.write(self.random.randrange(1, 8))
        self.sent[self.client.next_cookie] = None
        self.client.send(Command.FLUSH)
        self.drain()

    def cut(self) -> None:
        """The power goes at a random moment and comes back; now and then all is looked at in between."""
        if self.client is None:
            self._becomes_primary()
        victims = self.random.choice(
            ([self.primary], [self.primary], [self.secondary], [self.secondary, self.primary])
        )
        fail_over = self.settled and victims == [self.primary] and self.random.random() < 0.5
        struck = threading.Event()

        def strike() -> None:
            for node in victims:
                _cut_power(node)
            struck.set()

        timer = threading.Timer(self.random.uniform(0, LATEST_SECONDS), strike)
        timer.start()
        try:
            while not struck.is_set():
                self.write_and_sync()
        except ConnectionError:
            pass
        timer.join()
        if self.primary in victims:
            self.crashed()
        for node in victims:
            node.kill()  # reaps it
        name = "fail over" if fail_over else " and ".join(sorted(self._role(node) for node in victims))
        self.done[f"{name}{'' if self.settled else ', not in sync'}"] += 1
        if fail_over:
            self._wait(self.secondary, "disconnected")
            self.secondary.rpc("resource.promote", name="r0", force=True)
            self.primary, self.secondary = self.secondary, self.primary
            self.connect()
            self.write_and_sync()
        self.cluster.start(*victims)
        # The next cut may come before the nodes have found together.
        self.settled = self.random.random() < 0.6
        if self.settled:
            if self.client is None:
                self._becomes_primary()
            self.check()

    def _role(self, node: Node) -> str:
        return "Primary" if node is self.primary else "Secondary"


def _cut_power(node: Node) -> None:
    """SIGKILL to the daemon and whatever it may have started."""
    assert node.process is not None
    os.killpg(node.process.pid, signal.SIGKILL)


@pytest.mark.timeout(400)
def test_power_cuts_at_random_moments_lose_nothing(cluster: Cluster) -> None:
    cuts = int(os.environ.get("BLOCKPAIR_CUTS", "50"))
    seed = int(os.environ.get("BLOCKPAIR_CUT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"BLOCKPAIR_CUT_SEED={seed} BLOCKPAIR_CUTS={cuts}")
    for node in cluster.nodes:
        node.prefix = ("setsid",)  # a process group of its own: all of the node
    synced_for_long(cluster, SIZE)
    application = PowerCuts(cluster, seed)
    for number in range(cuts):
        try:
            application.cut()
        except BaseException:
            print(f"failed at cut {number + 1}; so far: {dict(application.done)}")
            raise
    if application.client is None:
        application._becomes_primary()
    application.check()
    application.end()
    print(f"{cuts} cuts, {application.oracle.acknowledged} acknowledged changes: {dict(application.done)}")
