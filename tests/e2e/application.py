"""An application that writes to a pair of nodes while they are broken, and what it may find afterwards."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from blockpair.errors import BlockpairError
from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.nbd_client import Command, Flag, NbdClient
from tests.e2e.oracle import BLOCK, Change, Oracle, content

DEPTH = 16
MOST_BLOCKS = 16
# Writes meet each other often only where there are few blocks.
HOT_BLOCKS = 64


def synced_for_long(cluster: Cluster, size: int) -> None:
    """From nothing to r0 of ``size`` bytes in sync, a Primary; nodes wait long for each other.

    A busy machine must not make a Primary go on alone: promoting the survivor would then rightly lose writes.
    """
    cluster.start()
    cluster.create(size)
    for node in cluster.nodes:
        file = node.dir / "config/resources/r0.toml"
        file.write_text(file.read_text().replace("[[peer]]", '[timeouts]\npeer = "60s"\n\n[[peer]]', 1))
    cluster.up()
    cluster.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    cluster.b.wait("synced")
    cluster.a.ok("promote", "r0")


class Application:
    """Writes through the Primary's export; checks both copies against all that it knows."""

    def __init__(self, cluster: Cluster, size: int, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.oracle = Oracle(size // BLOCK)
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

    def end(self) -> None:
        """Take r0 down on both nodes; the copies are equal and right, as the disks have them."""
        if self.client is not None:
            self.client.close()
            self.client = None
            eventually(lambda: not self._engine(self.primary)["clients"], "the client has gone")
        for node in (self.primary, self.secondary):
            node.ok("down", "r0")
        ours, theirs = (node.disk.read_bytes() for node in self.cluster.nodes)
        assert ours == theirs
        assert not self.oracle.wrong(ours, settle=False)

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
            raise AssertionError(f"{node.name}: {error.message}: {Application._engine(node)}") from None
