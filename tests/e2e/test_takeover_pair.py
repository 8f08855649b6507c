"""Two nodes and a client: the address goes from the one to the other, is never on both, and the client
notices only that it took a moment.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.namespace import Namespace
from tests.e2e.test_takeover import Place, placed, pytestmark  # noqa: F401 - the mark is for this module too

ADDRESS = "192.0.2.10"


@dataclass
class Holders:
    """Who has the address, looked at all the time."""

    nodes: tuple[Namespace, Namespace]
    most: int = 0
    looks: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Until it is told to end."""
        while not self._end.wait(0.005):
            # One after the other could show an address on both that moved in between: the one seen first
            # again.
            seen = [node.has_address(ADDRESS) for node in (*self.nodes, self.nodes[0])]
            self.most = max(self.most, (seen[0] and seen[2]) + seen[1])
            self.looks += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[Holders]:
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()


@contextlib.contextmanager
def program(net: Namespace, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`tests.who_answers` there."""
    process = subprocess.Popen(
        [*net.prefix, sys.executable, "-m", "tests.who_answers", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Pair:
    a: Place
    b: Place
    client: subprocess.Popen[str]
    holders: Holders

    def answered(self) -> tuple[str, float]:
        """Who answers now, when that changes, and after how long a silence."""
        assert self.client.stdout is not None
        who, silence = self.client.stdout.readline().split()
        return who, float(silence)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        switch, *hosts = (stack.enter_context(contextlib.closing(Namespace())) for _ in range(4))
        for number, host in enumerate(hosts, 1):
            host.plug(switch, f"port{number}", f"192.0.2.{number}/24")
        a, b, client = hosts
        places = []
        for name, net, other in (("a", a, b), ("b", b, a)):
            (tmp_path / name).mkdir()
            places.append(stack.enter_context(placed(tmp_path / name, net, other)))
            server = stack.enter_context(program(net, "serve", name))
            assert server.stdout is not None and server.stdout.readline() == "serving\n"
        asking = stack.enter_context(program(client, "ask", ADDRESS, "0.01"))
        holders = stack.enter_context(Holders((a, b)).watching())
        yield Pair(places[0], places[1], asking, holders)


def test_a_switchover_takes_the_client_along(pair: Pair) -> None:
    with pair.a.life() as a, pair.b.life() as b:
        assert a.carry_out("promote")["outcome"] == "done"
        assert pair.answered()[0] == "a"
        silences = []
        for one, other, name in ((a, b, "b"), (b, a, "a"), (a, b, "b")):
            assert one.carry_out("hand-over")["outcome"] == "done"
            assert other.carry_out("take-over")["outcome"] == "done"
            who, silence = pair.answered()
            assert who == name
            silences.append(silence)
        print(f"silence of a switchover: {', '.join(f'{one * 1000:.0f} ms' for one in silences)}")
        assert pair.holders.most == 1 and pair.holders.looks > 20
        # Seconds where this machine is busy; without the announcements it would be the age of a cache entry.
        assert max(silences) < 10


def test_a_node_whose_daemon_is_killed_loses_the_address_to_the_other(pair: Pair) -> None:
    with pair.a.life() as a, pair.b.life() as b:
        assert a.carry_out("promote")["outcome"] == "done"
        assert pair.answered()[0] == "a"
        # While a has it, b does not take it.
        result = b.carry_out("promote")
        assert (result["outcome"], result["step"]) == ("undone", "probe")
        a.process.kill()
        deadline = time.monotonic() + 20
        while (result := b.carry_out("promote"))["outcome"] != "done":
            assert result["step"] == "probe" and time.monotonic() < deadline
        assert pair.answered()[0] == "b"
        assert pair.holders.most == 1
