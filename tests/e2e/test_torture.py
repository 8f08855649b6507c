"""Random writes under random disconnects and kills of either daemon: nothing acknowledged is ever lost.

``BLOCKPAIR_TORTURE_ROUNDS`` (200) and ``BLOCKPAIR_TORTURE_SEED`` (printed; random) from the environment.
The seed fixes what is written and what is broken; the kernel's scheduling stays its own.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from blockpair.errors import BlockpairError
from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.nbd_client import Command, Flag, NbdClient
from tests.e2e.oracle import BLOCK, Change, Oracle, content

SIZE = 32 << 20
DEPTH = 16
MOST_BLOCKS = 16
# Writes meet each other often only where there are few blocks.
HOT_BLOCKS = 64


class Torturer:
    """A pair of nodes, an application that writes, and what it may find afterwards."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.oracle = Oracle(SIZE // BLOCK)
        self.primary, self.secondary = cluster.nodes
        self.client: NbdClient | None = None
        self.sent: dict[int, Change | None] = {}
        self.done: Counter[str] = Counter()

    # ---- the application

    def connect(self) -> None:
        """Open the Primary's export."""
        self.client = NbdClient(self.primary.nbd)

    def _issue(self, client: NbdClient) -> None:
        chosen = self.random.random()
        flags = Flag.FUA if self.random.random() < 0.1 else Flag(0)
        if chosen < 0.05:
            self.sent[client.send(Command.FLUSH).cookie] = None
            return
        count = min(self.random.choice((1, 1, 1, 2, 4, MOST_BLOCKS)), MOST_BLOCKS)
        space = HOT_BLOCKS if self.random.random() < 0.3 else self.oracle.blocks
        first = self.random.randrange(space - count + 1)
        if chosen < 0.10:
            # Reads mix with the rest; what they find is looked at when nothing else is on its way.
            self.sent[client.send(Command.READ, first * BLOCK, count * BLOCK).cookie] = None
            return
        change = self.oracle.issue(first, count, zero=chosen < 0.25)
        if chosen < 0.17:
            command, data = Command.TRIM, b""
        elif chosen < 0.25:
            command, data = Command.WRITE_ZEROES, b""
            flags |= self.random.choice((Flag(0), Flag.NO_HOLE))
        else:
            command, data = Command.WRITE, content(change.tag) * count
        # Noted before it is sent: half a request that left is one that was never answered.
        self.sent[client.next_cookie] = change
        client.send(command, first * BLOCK, count * BLOCK, data, flags)

    def _reap(self, client: NbdClient) -> None:
        request = client.reap()
        change = self.sent.pop(request.cookie)
        assert request.error == 0, f"{request.command.name} at {request.offset} failed with {request.error}"
        if change is not None:
            self.oracle.acknowledge(change)

    def _lost(self) -> None:
        assert self.client is not None
        self.client.close()
        self.client = None
        self.oracle.lose(change for change in self.sent.values() if change is not None)
        self.sent.clear()

    def write(self, requests: int) -> None:
        """Keep the depth full until so many requests were sent; some are still on their way afterwards."""
        assert self.client is not None
        for _ in range(requests):
            while len(self.sent) >= DEPTH:
                self._reap(self.client)
            self._issue(self.client)

    def drain(self) -> None:
        """Wait for every answer."""
        assert self.client is not None
        while self.sent:
            self._reap(self.client)

    def crashed(self) -> None:
        """Take the answers that the dead Primary had still sent."""
        assert self.client is not None
        try:
            while self.sent:
                self._reap(self.client)
        except ConnectionError:
            pass
        self._lost()

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
        for node in pair:
            node.start()
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

    # ---- what must hold

    def settle(self) -> None:
        """Wait for every answer and for equal copies."""
        self.drain()
        self._wait(self.primary, "primary", "synced")
        self._wait(self.secondary, "secondary", "synced")
        eventually(
            lambda: self._engine(self.primary)["peers"][0]["unacked"] == 0, "the peer has answered all"
        )

    def check(self) -> None:
        """Both copies are the same, and each block holds what it may."""
        self.settle()
        assert self.client is not None
        assert self.client.call(Command.FLUSH).error == 0
        ours, theirs = (node.disk.read_bytes() for node in (self.primary, self.secondary))
        if ours != theirs:
            differing = [
                block
                for block in range(self.oracle.blocks)
                if ours[block * BLOCK : (block + 1) * BLOCK] != theirs[block * BLOCK : (block + 1) * BLOCK]
            ]
            raise AssertionError(f"the copies differ in {len(differing)} blocks: {differing[:20]}")
        wrong = self.oracle.wrong(ours, settle=True)
        assert not wrong, f"{len(wrong)} blocks are wrong: {wrong[:20]}"

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

    def _becomes_primary(self) -> None:
        self._wait(self.primary, "primary")
        self.connect()

    @staticmethod
    def _engine(node: Node) -> Any:
        return node.rpc("resource.status", name="r0")["engine"]

    @staticmethod
    def _wait(node: Node, *until: str) -> None:
        try:
            node.rpc("resource.wait", name="r0", until=list(until), timeout_seconds=60.0)
        except BlockpairError as error:
            raise AssertionError(f"{node.name}: {error.message}: {Torturer._engine(node)}") from None


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_and_the_copies_end_equal(cluster: Cluster) -> None:
    rounds = int(os.environ.get("BLOCKPAIR_TORTURE_ROUNDS", "200"))
    seed = int(os.environ.get("BLOCKPAIR_TORTURE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"BLOCKPAIR_TORTURE_SEED={seed} BLOCKPAIR_TORTURE_ROUNDS={rounds}")
    cluster.start()
    cluster.create(SIZE)
    for node in cluster.nodes:
        # A busy machine must not make a Primary go on alone: promoting the survivor would then rightly lose
        # writes.
        file = node.dir / "config/resources/r0.toml"
        file.write_text(file.read_text().replace("[[peer]]", '[timeouts]\npeer = "60s"\n\n[[peer]]', 1))
    cluster.up()
    cluster.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    cluster.b.wait("synced")
    cluster.a.ok("promote", "r0")
    torturer = Torturer(cluster, seed)
    for number in range(rounds):
        try:
            torturer.round()
        except BaseException:
            print(f"failed in round {number + 1}; the rounds so far: {dict(torturer.done)}")
            raise
    for node in (torturer.primary, torturer.secondary):
        if torturer.client is not None:
            torturer.client.close()
            torturer.client = None
            eventually(lambda: not torturer._engine(torturer.primary)["clients"], "the client has gone")
        node.ok("down", "r0")
    ours, theirs = (node.disk.read_bytes() for node in cluster.nodes)
    assert ours == theirs
    assert not torturer.oracle.wrong(ours, settle=False)
    print(f"{rounds} rounds, {torturer.oracle.acknowledged} acknowledged changes: {dict(torturer.done)}")
