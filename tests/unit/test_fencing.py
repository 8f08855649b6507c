"""What the two nodes of a resource that goes by fencing tell each other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from blockpair.arbiter.fence import FenceArbiter, Fencer, Known
from blockpair.arbiter.interface import Configuration, Key
from blockpair.config.cluster import ClusterFile, parse_cluster, resource_on
from blockpair.config.fence import NodeFence
from blockpair.config.resource import resource_config
from blockpair.daemon.arbitration import arbiter_report
from blockpair.daemon.desired import BootMarker
from blockpair.daemon.fencing import Fencing, fence_methods
from blockpair.daemon.judges import Judges
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import EngineStatus
from blockpair.trust.store import Generation
from tests.unit.status_samples import engine

CLUSTER = "0f8b6c1e-6d6f-4b47-8d7e-0a2f0b8a3d11"
KEY = Key(CLUSTER, "1" * 32, "r0")
TOGETHER = Configuration(2, "a", frozenset({"a", "b"}))
NEWER = Configuration(3, "b", frozenset({"b"}))
LEVELS = 'levels = [[{ agent = "fence_x" }]]'
CONTENT: ClusterFile = parse_cluster(
    f'[cluster]\nname = "east"\nid = "{CLUSTER}"\n[arbiter]\nkind = "fence"\n'
    f'[fence.a]\n{LEVELS}\ndelay = "9s"\n[fence.b]\n{LEVELS}\n'
    + "".join(f'[node.{node}]\naddresses = ["10.0.0.{at}"]\n' for at, node in enumerate("abc", 1))
    + "".join(f'[resource.r0.on.{node}]\ndevice = "/d"\nmetadata = "internal"\n' for node in "ab"),
    Path("cluster.toml"),
)


class Node:
    """Node ``name`` as its daemon has it; its peer is asked by a call to ``peer``'s methods."""

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self.peer: Node | None = None
        self.calls: list[str] = []
        self.met = BootMarker(base / name / "met", "this boot")
        self.arbiter = FenceArbiter(name, Fencer(cast(dict[str, NodeFence], {})), base / name / "fence", self)
        self.judges = Judges(lambda content: self.arbiter)
        self.judges.take(CONTENT, cast(Generation, "g1"))
        self.fencing = Fencing("r0", self.judges, self.met, self._call)
        self.methods = fence_methods(self.judges)

    async def known(self, key: Key) -> Known:
        return Known((), met=True)

    async def tell(self, key: Key, entered: Configuration) -> None:
        await self.fencing.tell(key, self.status(), entered)

    async def _call(self, node: str, method: str, params: Any) -> Any:
        self.calls.append(method)
        if self.peer is None or node != self.peer.name:
            raise BlockpairError(ErrorKind.UNREACHABLE, f"{node} does not answer", "start it")
        return await self.peer.methods[method].run(self.name, params)

    def status(self, connection: str = "Connected", **changed: Any) -> EngineStatus:
        """What its engine says."""
        other = "b" if self.name == "a" else "a"
        sample = engine(resource_id=KEY.resource_id, **changed)

        peer = msgspec.structs.replace(sample.peers[0], name=other, connection=connection)
        return msgspec.structs.replace(sample, peers=[peer])


def pair(base: Path) -> tuple[Node, Node]:
    a, b = Node("a", base), Node("b", base)
    a.peer, b.peer = b, a
    return a, b


def test_what_one_enters_the_other_records(tmp_path: Path) -> None:
    async def work() -> None:
        a, b = pair(tmp_path)
        assert await a.arbiter.compare_and_swap(KEY, None, TOGETHER)
        assert await b.arbiter.held(KEY) == TOGETHER

    asyncio.run(work())


def test_nodes_have_met_once_one_has_the_others_record(tmp_path: Path) -> None:
    async def work() -> None:
        a, b = pair(tmp_path)
        await a.arbiter.learn(KEY, NEWER)
        await b.arbiter.learn(KEY, TOGETHER)
        await b.fencing.seen(b.status("Connecting"))
        assert not b.met.is_set() and b.calls == []
        b.peer = None
        await b.fencing.seen(b.status())
        assert not b.met.is_set(), "it was not told what the other knows"
        b.peer = a
        await b.fencing.seen(b.status())
        assert b.met.is_set()
        assert await b.arbiter.held(KEY) == NEWER

    asyncio.run(work())


def test_a_fence_is_in_the_report_as_long_as_it_is_under_way(tmp_path: Path) -> None:
    async def work() -> None:
        a = Node("a", tmp_path)
        fencer = Fencer({"b": NodeFence((), delay=60.0)})
        a.arbiter = FenceArbiter("a", fencer, tmp_path / "fence", a)
        config = resource_config(resource_on(CONTENT, "r0", "a"), Path("r0.toml"), "a")
        judges = Judges(lambda content: a.arbiter)
        judges.take(CONTENT, cast(Generation, "g1"))
        assert arbiter_report(config, judges).fencing is None
        fencing = asyncio.create_task(fencer.fence("b"))
        await asyncio.sleep(0)
        report = arbiter_report(config, judges)
        assert (report.state, report.fencing) == ("unasked", "b")
        assert report.fencing_seconds is not None and 0 <= report.fencing_seconds < 60
        fencing.cancel()
        await asyncio.wait([fencing])
        assert arbiter_report(config, judges).fencing is None

    asyncio.run(work())


def test_the_others_record_is_asked_for_while_it_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        a, b = pair(tmp_path)
        await a.arbiter.learn(KEY, NEWER)
        assert (await b.fencing.known(KEY, b.status())).configurations == (NEWER,)
        b.peer = None
        assert (await b.fencing.known(KEY, b.status())).configurations == ()

    asyncio.run(work())


def test_who_leaves_gives_its_word_and_takes_it_back(tmp_path: Path) -> None:
    async def work() -> None:
        a, b = pair(tmp_path)
        for node in (a, b):
            await node.arbiter.learn(KEY, TOGETHER)
            node.met.set()
        await b.fencing.leaving(b.status("Connecting"))
        assert not await b.arbiter.resigned(KEY), "nobody is there to hear it"
        await b.fencing.leaving(b.status())
        assert await b.arbiter.resigned(KEY)
        await b.fencing.seen(b.status())
        assert not await b.arbiter.resigned(KEY)
        # a believes it no more: there is nothing to fence b with here, and that is what it would need.
        with pytest.raises(Exception, match="nothing says how to switch b off"):
            await a.arbiter.compare_and_swap(KEY, TOGETHER, Configuration(3, "a", frozenset({"a"})))
        await b.fencing.leaving(b.status())
        assert await a.arbiter.compare_and_swap(KEY, TOGETHER, Configuration(3, "a", frozenset({"a"})))

    asyncio.run(work())


@pytest.mark.parametrize("method", ["record", "entered", "word", "word-back"])
def test_a_member_without_a_copy_has_no_say(tmp_path: Path, method: str) -> None:
    async def work() -> None:
        a, _ = pair(tmp_path)
        found = a.methods[f"peer.fence.{method}"]
        given = {"resource_id": KEY.resource_id, "name": "r0"}
        more: dict[str, dict[str, Any]] = {
            "entered": {"configuration": NEWER.document()},
            "word": {"epoch": 2},
        }
        with pytest.raises(BlockpairError, match="c has no copy of r0"):
            await found.run("c", found.params(**given, **more.get(method, {})))
        assert await a.arbiter.held(KEY) is None

    asyncio.run(work())
