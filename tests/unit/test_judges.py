"""The daemon's one arbiter, and what a resource's engine asks of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from blockpair.arbiter.interface import Arbiter, ArbiterKind, ArbiterUnreachable, Configuration, Key
from blockpair.bridge import Running
from blockpair.config.arbiter import ArbiterTable
from blockpair.config.cluster import ClusterFile, parse_cluster, resource_on
from blockpair.config.resource import ResourceConfig, resource_config
from blockpair.daemon.arbitration import Arbitration, arbiter_report
from blockpair.daemon.judges import Judges
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import EngineStatus
from blockpair.trust.store import Generation
from tests.unit.status_samples import engine
from tests.unit.test_arbiter_config import text

CONTENT = parse_cluster(text(), Path("cluster.toml"))
KEY = Key(CONTENT.cluster.id, "1" * 32, "r0")
HELD = Configuration(3, "a", frozenset({"a", "b"}))


class Register:
    """An arbiter of this process."""

    def __init__(self, kind: ArbiterKind = "witness") -> None:
        self.kind = kind
        self.held: dict[Key, Configuration] = {}
        self.closed = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.away = False

    async def read(self, key: Key) -> Configuration | None:
        assert not self.closed
        await self.may_answer.wait()
        assert not self.closed
        if self.away:
            raise ArbiterUnreachable("connection refused")
        return self.held.get(key)

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        if await self.read(key) != expected:
            return False
        self.held[key] = new
        return True

    async def close(self) -> None:
        self.closed = True


def trust(name: str = "g1") -> Generation:
    return cast(Generation, name)


def witness(address: str) -> ClusterFile:
    return msgspec.structs.replace(CONTENT, arbiter=ArbiterTable("witness", address=address))


class World:
    """Judges, and every arbiter that was made for them."""

    def __init__(self) -> None:
        self.made: list[Register] = []
        self.failure: BlockpairError | None = None
        self.judges = Judges(self._build)

    def _build(self, content: ClusterFile) -> Arbiter:
        if self.failure is not None:
            raise self.failure
        self.made.append(Register("etcd" if content.arbiter.kind == "etcd" else "witness"))
        return self.made[-1]


def run(body: Callable[[World], Awaitable[None]]) -> None:
    async def life() -> None:
        world = World()
        try:
            await asyncio.wait_for(body(world), 20)
        finally:
            await world.judges.close()
        assert all(register.closed for register in world.made)

    asyncio.run(life())


def test_one_arbiter_is_made_and_kept_while_nothing_changes() -> None:
    async def body(world: World) -> None:
        world.judges.take(CONTENT, trust())
        world.judges.take(msgspec.structs.replace(CONTENT, resource={}), trust())
        assert len(world.made) == 1
        world.made[0].held[KEY] = HELD
        assert await world.judges.by("witness").read(KEY) == HELD
        assert world.judges.place("witness") == "witness 10.0.0.3:7790"

    run(body)


@pytest.mark.parametrize("change", ["address", "trust"])
def test_a_change_makes_a_new_one_and_the_old_one_ends_its_call_first(change: str) -> None:
    async def body(world: World) -> None:
        world.judges.take(CONTENT, trust())
        arbiter = world.judges.by("witness")
        old = world.made[0]
        old.may_answer.clear()
        asked = asyncio.create_task(arbiter.read(KEY))
        await asyncio.sleep(0)
        if change == "address":
            world.judges.take(witness("10.0.0.4:7790"), trust())
        else:
            world.judges.take(CONTENT, trust("g2"))
        assert len(world.made) == 2 and not old.closed
        world.made[1].held[KEY] = HELD
        assert await arbiter.read(KEY) == HELD
        old.may_answer.set()
        assert await asked is None

    run(body)


def test_a_resource_goes_by_the_kind_that_it_was_brought_up_with_as_long_as_its_trust_is_good() -> None:
    async def body(world: World) -> None:
        world.judges.take(CONTENT, trust())
        arbiter = world.judges.by("witness")
        world.made[0].held[KEY] = HELD
        etcd = msgspec.structs.replace(CONTENT, arbiter=ArbiterTable("etcd", endpoints=["https://h:1"]))
        world.judges.take(etcd, trust())
        assert await arbiter.read(KEY) == HELD
        assert await world.judges.by("etcd").read(KEY) is None
        world.judges.take(etcd, trust("g2"))
        with pytest.raises(ArbiterUnreachable, match="of the kind etcd now"):
            await arbiter.read(KEY)
        none = msgspec.structs.replace(CONTENT, arbiter=ArbiterTable())
        world.judges.take(none, trust("g2"))
        assert await world.judges.by("etcd").read(KEY) is None
        world.judges.take(none, trust("g3"))
        with pytest.raises(ArbiterUnreachable, match="no arbiter any more"):
            await arbiter.compare_and_swap(KEY, None, HELD)
        world.judges.take(None, None)
        with pytest.raises(ArbiterUnreachable, match="in no cluster"):
            await arbiter.read(KEY)
        world.judges.take(CONTENT, None)
        with pytest.raises(ArbiterUnreachable, match="no trust"):
            await arbiter.read(KEY)

    run(body)


def test_an_arbiter_that_cannot_be_made_is_told_of_and_made_when_it_can_be() -> None:
    async def body(world: World) -> None:
        world.failure = BlockpairError(ErrorKind.CONFIG, "/ca cannot be read", "correct its mode")
        world.judges.take(CONTENT, trust())
        look = await world.judges.look()
        assert look is not None and not look.reachable and "/ca cannot be read" in str(look.why)
        world.failure = None
        world.judges.take(CONTENT, trust())
        look = await world.judges.look()
        assert look is not None and look.reachable and look.place == "witness 10.0.0.3:7790"
        world.made[0].away = True
        look = await world.judges.look()
        assert look is not None and look.why == "connection refused"

    run(body)


def test_without_an_arbiter_there_is_nothing_to_look_at() -> None:
    async def body(world: World) -> None:
        assert await world.judges.look() is None
        world.judges.take(msgspec.structs.replace(CONTENT, arbiter=ArbiterTable()), trust())
        assert await world.judges.look() is None
        assert (world.judges.kind, world.made) == ("manual", [])

    run(body)


class Engine:
    """What a resource's dealings need of an engine; `asked` is open until it is answered."""

    def __init__(self) -> None:
        self.resource_id: str | None = None
        self.open: dict[str, Any] | None = None
        self.heard: list[tuple[int, Any]] = []
        self.answered = asyncio.Event()

    def status(self) -> EngineStatus:
        return engine(resource_id=self.resource_id)

    def asks(self) -> str:
        return json.dumps(self.open)

    def arbiter_says(self, ask: int, configuration: str) -> None:
        self.heard.append((ask, json.loads(configuration)))
        self.open = None
        self.answered.set()


def config(resource: str = "", content: ClusterFile = CONTENT) -> ResourceConfig:
    changed = parse_cluster(text(resource=resource), Path("cluster.toml")) if resource else content
    return resource_config(resource_on(changed, "r0", "a"), Path("r0.toml"), "a")


def test_what_the_engine_asks_is_passed_on_once_the_resource_has_an_id() -> None:
    async def body(world: World) -> None:
        world.judges.take(CONTENT, trust())
        subject = Engine()
        dealings = Arbitration(config(), cast(Running, subject), world.judges)
        dealings.wake()
        assert dealings.report().state == "unasked"
        subject.resource_id = KEY.resource_id
        subject.open = {"ask": 1, "do": "swap", "expected": None, "next": HELD.document()}
        # The engine's events wake it, again and again.
        while not subject.answered.is_set():
            dealings.wake()
            await asyncio.sleep(0.001)
        assert subject.heard == [(1, HELD.document())]
        assert world.made[0].held == {KEY: HELD}
        report = dealings.report()
        assert (report.state, report.automatic, report.place) == ("answers", True, "witness 10.0.0.3:7790")
        world.made[0].away = True
        subject.open = {"ask": 2, "do": "read"}
        dealings.wake()
        for _ in range(2000):
            if dealings.report().state == "unreachable":
                break
            await asyncio.sleep(0.001)
        assert dealings.report().text == "connection refused"
        await dealings.end()
        subject.open = {"ask": 3, "do": "read"}
        dealings.wake()
        await asyncio.sleep(0)
        assert len(subject.heard) == 1

    run(body)


def test_a_resource_without_an_arbiter_says_why() -> None:
    async def body(world: World) -> None:
        assert "in no cluster" in str(
            arbiter_report(config(content=no_arbiter()), world.judges).manual_because
        )
        world.judges.take(no_arbiter(), trust())
        assert "no arbiter" in str(arbiter_report(config(content=no_arbiter()), world.judges).manual_because)
        world.judges.take(CONTENT, trust())
        report = arbiter_report(config('arbiter = "manual"'), world.judges)
        assert report.state == "manual" and "arbiter =" in str(report.manual_because)
        report = arbiter_report(config('protocol = "A"'), world.judges)
        assert not report.automatic and "protocol A" in str(report.manual_because)

    run(body)


def no_arbiter() -> ClusterFile:
    return msgspec.structs.replace(CONTENT, arbiter=ArbiterTable())
