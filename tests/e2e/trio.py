"""Two nodes and a witness on this machine, and how long writers wait when one of them is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.cluster import DEADLINE, Cluster, Node, eventually
from tests.e2e.nbd_client import NbdClient
from tests.e2e.wire import Wire
from tests.e2e.witness import WitnessProcess

BLOCK = 4096
SIZE = 16 << 20
# What is written by a test goes to these, one after the other: each is written once.
BLOCKS = SIZE // BLOCK


class Witness(WitnessProcess):
    """One that serves the cluster of a node."""

    @property
    def port(self) -> int:
        """Where nodes reach it."""
        return self.address.port

    def join(self, node: Node) -> None:
        """Have it serve the cluster of ``node``."""
        token = node.rpc("cluster.token")["text"]
        self.ok("witness", "join", f"127.0.0.1:{node.control}", token)


class Trio:
    """Nodes a and b, r0 on both, and a witness. ``wired``: a reaches b over wires that can be cut."""

    def __init__(self, base: Path, *, wired: bool = False, size: int = SIZE) -> None:
        self.cluster = Cluster(base)
        self.a, self.b = self.cluster.nodes
        self.witness = Witness(base)
        self.wires: list[Wire] = []
        self._wired = wired
        self._size = max(size, SIZE)

    def form(self) -> None:
        """A cluster and its witness."""
        self.join()
        self.appoint()

    def join(self) -> None:
        """A cluster, without an arbiter."""
        a, b = self.a, self.b
        if self._wired:
            self.wire()
        self.cluster.start()
        a.ok("cluster", "init", "test")
        token = a.rpc("cluster.token")["text"]
        address = ("--address", "127.0.0.2") if self._wired else ()
        b.ok("cluster", "join", f"127.0.0.1:{a.control}", token, *address)

    def appoint(self) -> None:
        """Make the witness the cluster's arbiter."""
        self.witness.start()
        self.witness.join(self.a)
        settings = ("arbiter.kind=witness", f"arbiter.address=127.0.0.1:{self.witness.port}")
        self.a.ok("config", "edit", *(word for setting in settings for word in ("--set", setting)))

    def wire(self) -> None:
        """Lead to b's own ports from another address of this machine: all that a, and b's own word, know."""
        self.wires = [
            Wire(("127.0.0.2", port), ("127.0.0.1", port)) for port in (self.b.port, self.b.control)
        ]

    def create(self, profile: str = "default", *options: str) -> str:
        """Make r0 and bring it up; what `create` said."""
        for node in self.cluster.nodes:
            with node.disk.open("wb") as disk:
                disk.truncate(self._size)
        said = self.a.ok("create", "r0", "--on", f"a={self.a.disk},b={self.b.disk}", "--no-up", *options).out
        if profile != "default":
            self.a.ok("config", "edit", "--set", f"resource.r0.arbitration.profile={profile}")
        for node in self.cluster.nodes:
            node.rpc("resource.up", name="r0")
        for node in self.cluster.nodes:
            node.rpc("resource.wait", name="r0", until=["connected"], timeout_seconds=DEADLINE)
        return said

    def served_by_a(self) -> None:
        """Make a the source of the first sync, and Primary."""
        self.a.rpc("resource.sync", name="r0", source="a")
        self.a.rpc("resource.wait", name="r0", until=["synced"], timeout_seconds=DEADLINE)
        self.a.rpc("resource.promote", name="r0")

    def synced(self, profile: str = "default", *options: str) -> None:
        """From nothing to a Primary in sync, both nodes in the in-sync set."""
        self.form()
        self.create(profile, *options)
        self.served_by_a()
        self.entered("a", "a", "b")

    def entered(self, primary: str, *in_sync: str) -> int:
        """Wait until the Primary goes by such a configuration, and who is in sync by its epoch; the epoch."""
        [first] = [node for node in self.cluster.nodes if node.name == primary]
        nodes = [node for node in self.cluster.nodes if node.name in in_sync]

        def so() -> bool:
            found = configuration(first)
            return (
                found is not None
                and (found["primary"], found["in_sync"]) == (primary, sorted(in_sync))
                and all(arbitration(node)["epoch"] == found["epoch"] for node in nodes)
            )

        eventually(so, f"{primary} is entered as Primary, in sync: {', '.join(in_sync)}")
        return int(configuration(first)["epoch"])

    def cut(self) -> None:
        """Nothing gets through between the nodes."""
        for wire in self.wires:
            wire.cut()

    def mend(self) -> None:
        """The nodes reach each other again."""
        for wire in self.wires:
            wire.mend()

    def close(self) -> None:
        """End all of it."""
        self.cluster.close()
        self.witness.kill()
        for wire in self.wires:
            wire.close()

    def logs(self) -> str:
        """What all of them said."""
        return f"{self.cluster.logs()}\n--- witness\n{self.witness.log.read_text()}"


def engine(node: Node) -> Any:
    """What the engine of r0 says."""
    return node.rpc("resource.status", name="r0")["engine"]


def arbitration(node: Node) -> Any:
    """What it says of the arbitration."""
    return engine(node)["arbitration"]


def configuration(node: Node) -> Any:
    """What it goes by, or None."""
    return arbitration(node)["configuration"]


def content(number: int) -> bytes:
    """Of the block that is written as the ``number``th."""
    return number.to_bytes(8, "big") * (BLOCK // 8)


def first_write(node: Node, number: int, since: float, deadline: float = DEADLINE) -> float:
    """Seconds from ``since`` to the first write on ``node`` that is acknowledged."""
    while True:
        try:
            with NbdClient(node.nbd) as client:
                client.write(number * BLOCK, content(number))
                return time.monotonic() - since
        except OSError as error:
            assert time.monotonic() - since < deadline, f"{node.name} takes no write: {error}"
            time.sleep(0.002)


class Writer:
    """Writes a block after the other on a node, each only when the one before was acknowledged."""

    def __init__(self, node: Node, first: int = 0, deadline: float = DEADLINE) -> None:
        self.acknowledged: list[int] = []
        self.times: list[float] = []
        self.error: OSError | None = None
        self._first = first
        self._end = threading.Event()
        self._client = NbdClient(node.nbd)
        self._client.socket.settimeout(deadline)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = self._first
        try:
            while not self._end.is_set() and number < BLOCKS:
                self._client.write(number * BLOCK, content(number))
                self.times.append(time.monotonic())
                self.acknowledged.append(number)
                number += 1
                # Blocks are written once: they must last for the time of a test.
                self._end.wait(0.002)
        except OSError as error:
            self.error = error

    def wrote(self, more: int = 5) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= wanted or self.error is not None, "writes go on")
        assert self.error is None, self.error

    def ended(self) -> None:
        """Wait until it has ended by an error."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive() and self.error is not None

    def longest_stall(self, since: float) -> float:
        """The longest time without an acknowledgement from ``since`` on."""
        times = [since, *(at for at in self.times if at > since)]
        return max(after - before for before, after in pairwise(times))

    def stop(self) -> None:
        """End it in good order."""
        self._end.set()
        self._thread.join(DEADLINE)
        self._client.close()


def kept(disk: Path, numbers: list[int]) -> bool:
    """Whether the disk has every one of these blocks."""
    data = disk.read_bytes()
    return all(data[number * BLOCK : (number + 1) * BLOCK] == content(number) for number in numbers)


def advice(node: Node, code: str) -> Any:
    """The entry of that code, or None."""
    entries = node.rpc("resource.status", name="r0")["advice"]
    return next((entry for entry in entries if entry["code"] == code), None)


def told(node: Node, code: str, has: Callable[[Any], bool] = lambda _: True) -> Any:
    """Wait for an entry of that code; the entry."""
    eventually(
        lambda: (found := advice(node, code)) is not None and has(found), f"{node.name} tells of {code}"
    )
    return advice(node, code)
