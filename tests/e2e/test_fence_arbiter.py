"""Two nodes without a third: who may go on, by its own record and the proof that the other is off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockpair.arbiter.fence import FenceArbiter, Fencer, Known
from blockpair.arbiter.fence.arbiter import excluded
from blockpair.arbiter.fence.record import Records
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Configuration, Key
from blockpair.arbiter.runner import Runner
from tests.e2e.cluster import eventually
from tests.e2e.fence import Alone, PowerDevice

KEY = Key("0d9e1c0e-5f0e-4f6e-9d52-5d3c1d9f7a11", "5" * 32, "r0")
BOTH = frozenset({"a", "b"})
CREATED = Configuration(1, "a", frozenset({"a"}))
TOGETHER = Configuration(2, "a", BOTH)
SHRUNK = Configuration(3, "a", frozenset({"a"}))
PROMOTED = Configuration(3, "b", frozenset({"b"}))


class Pair:
    """Node a with its arbiter, and b's power."""

    def __init__(self, base: Path) -> None:
        base.mkdir(exist_ok=True)
        self.power = PowerDevice(base)
        self.records = base / "state/fence"
        self.met = True
        self.entered: tuple[Configuration, ...] = ()
        self.alone: int | None = None
        self.told: list[Configuration] = []

    async def known(self, key: Key) -> Known:
        return Known(self.entered, self.met, self.alone)

    async def tell(self, key: Key, entered: Configuration) -> None:
        self.told.append(entered)

    def arbiter(self, mode: str = "works", delay: float = 0.0, node: str = "a") -> FenceArbiter:
        other = "b" if node == "a" else "a"
        fencer = Fencer({other: self.power.fence(mode, delay)}, told=lambda event, fields: None)
        return FenceArbiter(node, fencer, self.records, self)

    def remember(self, known: Configuration) -> None:
        asyncio.run(self.arbiter().learn(KEY, known))

    @property
    def record(self) -> Any:
        return json.loads((self.records / KEY.cluster / f"{KEY.resource_id}.json").read_text())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


# -- Whom a swap leaves out


@pytest.mark.parametrize(
    ("node", "expected", "new", "out"),
    [
        ("a", None, CREATED, []),  # CREATE
        ("a", CREATED, TOGETHER, []),  # GROW
        ("a", TOGETHER, Configuration(9, "a", BOTH), []),  # RENEW
        ("b", TOGETHER, Configuration(3, "b", BOTH), []),  # HANDOVER
        ("a", TOGETHER, SHRUNK, ["b"]),  # SHRINK, RESUME
        ("b", TOGETHER, PROMOTED, ["a"]),  # PROMOTE
        ("a", CREATED, Configuration(2, "a", frozenset({"a"})), []),  # RESUME of one that is alone
        ("b", CREATED, Configuration(2, "b", frozenset({"b"})), ["a"]),  # the core never asks for it
        ("a", None, Configuration(7, "a", BOTH), []),  # RESEED
    ],
)
def test_whoever_a_swap_leaves_out_is_fenced(
    node: str, expected: Configuration | None, new: Configuration, out: list[str]
) -> None:
    assert excluded(node, expected, new) == out


def test_a_swap_that_leaves_nobody_out_is_only_written(pair: Pair) -> None:
    async def work() -> None:
        arbiter = pair.arbiter("fails")
        assert await arbiter.read(KEY) is None
        assert not await arbiter.compare_and_swap(KEY, CREATED, TOGETHER)
        assert await arbiter.compare_and_swap(KEY, None, CREATED)
        assert not await arbiter.compare_and_swap(KEY, None, CREATED)
        assert await arbiter.compare_and_swap(KEY, CREATED, TOGETHER)
        assert await arbiter.read(KEY) == TOGETHER
        handed_over = Configuration(3, "b", BOTH)
        assert await arbiter.compare_and_swap(KEY, TOGETHER, handed_over)
        assert await arbiter.compare_and_swap(KEY, handed_over, Configuration(8, "b", BOTH))

    asyncio.run(work())
    assert pair.power.calls() == []
    assert pair.record == {"epoch": 8, "primary": "b", "in_sync": ["a", "b"], "name": "r0", "bound": False}
    assert asyncio.run(pair.arbiter().read(KEY)) == Configuration(8, "b", BOTH), "another life reads it"


def test_a_swap_that_leaves_one_out_is_written_once_that_is_seen_off(pair: Pair) -> None:
    pair.remember(TOGETHER)
    assert asyncio.run(pair.arbiter().compare_and_swap(KEY, TOGETHER, SHRUNK))
    assert pair.power.is_off
    assert pair.power.actions() == ["off", "status"]
    assert asyncio.run(pair.arbiter().read(KEY)) == SHRUNK
    assert pair.told == [SHRUNK], "whatever is entered, the other node is told, if it can be"


@pytest.mark.parametrize("mode", ["fails:off", "lies", "hangs:off", "hangs:status"])
def test_without_proof_nothing_is_written(pair: Pair, mode: str) -> None:
    pair.remember(TOGETHER)
    pair.power.timeout = 1.0
    with pytest.raises(ArbiterUnreachable, match="b is not proved off"):
        asyncio.run(pair.arbiter(mode).compare_and_swap(KEY, TOGETHER, SHRUNK))
    assert asyncio.run(pair.arbiter().read(KEY)) == TOGETHER


def test_nobody_is_fenced_for_what_was_not_expected(pair: Pair) -> None:
    pair.remember(SHRUNK)
    assert not asyncio.run(pair.arbiter().compare_and_swap(KEY, TOGETHER, SHRUNK))
    assert not asyncio.run(pair.arbiter(node="b").compare_and_swap(KEY, TOGETHER, PROMOTED))
    assert pair.power.calls() == []


def test_two_swaps_at_once_are_one_after_the_other(pair: Pair) -> None:
    pair.remember(TOGETHER)

    async def work() -> None:
        arbiter = pair.arbiter()
        swaps = (arbiter.compare_and_swap(KEY, TOGETHER, SHRUNK) for _ in range(2))
        assert sorted(await asyncio.gather(*swaps)) == [False, True]

    asyncio.run(work())


def test_a_node_that_nothing_can_switch_off_is_told(pair: Pair) -> None:
    pair.remember(Configuration(2, "a", frozenset({"a", "c"})))
    with pytest.raises(ArbiterRefused, match=r"how to switch c off; remedy: add \[fence\.c\]"):
        asyncio.run(
            pair.arbiter().compare_and_swap(KEY, Configuration(2, "a", frozenset({"a", "c"})), SHRUNK)
        )


# -- Before an engine promises anything


def test_an_engine_that_would_go_on_alone_hears_nothing_before_the_other_is_off(pair: Pair) -> None:
    pair.remember(TOGETHER)
    pair.alone = TOGETHER.epoch
    with pytest.raises(ArbiterUnreachable, match="b is not proved off"):
        asyncio.run(pair.arbiter("fails:off").read(KEY))

    async def work() -> None:
        arbiter = pair.arbiter()
        assert await arbiter.read(KEY) == TOGETHER
        assert pair.power.is_off
        before = len(pair.power.calls())
        assert await arbiter.compare_and_swap(KEY, TOGETHER, SHRUNK)
        assert pair.power.actions()[before:] == ["status"], "seen once more, not switched again"

    asyncio.run(work())


def test_a_node_that_was_switched_on_meanwhile_is_fenced_again(pair: Pair) -> None:
    pair.remember(TOGETHER)
    pair.alone = TOGETHER.epoch

    async def work() -> None:
        arbiter = pair.arbiter()
        await arbiter.read(KEY)
        pair.power.state.write_text("on")
        assert await arbiter.compare_and_swap(KEY, TOGETHER, SHRUNK)
        assert pair.power.actions() == ["off", "status", "status", "off", "status"]
        assert pair.power.is_off

    asyncio.run(work())


def test_resources_that_lose_one_node_need_one_fencing(pair: Pair) -> None:
    """Each sees it off for itself once more before it writes, and none waits for a second head start."""
    keys = [Key(KEY.cluster, str(number) * 32, f"r{number}") for number in range(4)]
    pair.alone = TOGETHER.epoch

    async def work() -> None:
        arbiter = pair.arbiter()
        for key in keys:
            await arbiter.learn(key, TOGETHER)
        assert await asyncio.gather(*(arbiter.read(key) for key in keys)) == [TOGETHER] * 4
        assert pair.power.actions() == ["off", "status"]
        done = await asyncio.gather(*(arbiter.compare_and_swap(key, TOGETHER, SHRUNK) for key in keys))
        assert done == [True] * 4
        assert set(pair.power.actions()[2:]) == {"status"}, "nobody is switched off again"

    asyncio.run(work())


def test_an_engine_that_wants_it_no_more_has_nobody_switched_off(pair: Pair) -> None:
    """The link is back while the other's head start runs, and the engine withdraws its ask."""
    pair.remember(TOGETHER)
    pair.alone = TOGETHER.epoch
    begun, ended = asyncio.Event(), asyncio.Event()

    class Engine:
        open = '{"ask": 1, "do": "read"}'

        def asks(self) -> str:
            return self.open

        def arbiter_says(self, ask: int, configuration: str) -> None:
            raise AssertionError("nothing was proved")

    class Watched(FenceArbiter):
        async def read(self, key: Key) -> Configuration | None:
            try:
                return await super().read(key)
            finally:
                ended.set()

    async def work() -> None:
        fencer = Fencer({"b": pair.power.fence(delay=3600)}, told=lambda event, fields: begun.set())
        engine = Engine()
        arbiter = Watched("a", fencer, pair.records, pair)
        runner = Runner(KEY, engine, arbiter, call_seconds=None, probe_seconds=None)
        runner.start()
        async with asyncio.timeout(20):
            await begun.wait()
            engine.open = "null"
            runner.wake()
            await ended.wait()
        # A check has its turn again: no fencing is under way any more.
        assert len(await fencer.check("b", "status")) == 1
        assert pair.power.actions() == ["status"] and not pair.power.is_off
        await runner.stop()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("held", "alone"),
    [
        (TOGETHER, None),
        (TOGETHER, TOGETHER.epoch + 1),
        (Configuration(3, "b", frozenset({"b"})), 3),
        (Configuration(3, "a", frozenset({"a"})), 3),
    ],
)
def test_a_read_fences_nobody_without_need(pair: Pair, held: Configuration, alone: int | None) -> None:
    """Nobody wants to go on alone; what is known is newer; this node is not in sync; it is alone already."""
    pair.remember(held)
    pair.alone = alone
    assert asyncio.run(pair.arbiter().read(KEY)) == held
    assert pair.power.calls() == []


def test_a_read_before_the_two_have_met_is_refused(pair: Pair) -> None:
    pair.remember(TOGETHER)
    pair.met, pair.alone = False, TOGETHER.epoch
    with pytest.raises(ArbiterRefused, match="b is not fenced"):
        asyncio.run(pair.arbiter().read(KEY))
    assert pair.power.calls() == []


# -- What may be old


def test_after_a_boot_nobody_is_fenced_before_the_two_have_met(pair: Pair) -> None:
    pair.remember(TOGETHER)
    pair.met = False
    with pytest.raises(ArbiterRefused, match=r"b is not fenced: .*remedy: start b; .*promote r0 --force"):
        asyncio.run(pair.arbiter().compare_and_swap(KEY, TOGETHER, SHRUNK))
    assert pair.power.calls() == []
    pair.met = True
    assert asyncio.run(pair.arbiter().compare_and_swap(KEY, TOGETHER, SHRUNK))


def test_one_that_is_alone_already_needs_nobody_to_go_on(pair: Pair) -> None:
    """Who was rightly alone before its boot, for it had fenced the other, may be alone after it."""
    pair.remember(SHRUNK)
    pair.met = False
    assert asyncio.run(pair.arbiter().compare_and_swap(KEY, SHRUNK, Configuration(4, "a", frozenset({"a"}))))
    assert pair.power.calls() == []


def test_what_the_engine_knows_is_put_into_the_record(pair: Pair) -> None:
    async def work() -> None:
        arbiter = pair.arbiter()
        assert await arbiter.learn(KEY, TOGETHER)
        assert not await arbiter.learn(KEY, TOGETHER)
        assert not await arbiter.learn(KEY, CREATED), "an older one is no news"
        assert await arbiter.learn(KEY, Configuration(9, "b", frozenset({"b"})))
        with pytest.raises(ArbiterRefused, match=r"epoch 9 of r0 is .* remedy"):
            await arbiter.learn(KEY, Configuration(9, "a", frozenset({"a"})))
        assert await arbiter.read(KEY) == Configuration(9, "b", frozenset({"b"}))

    asyncio.run(work())


def test_a_swap_is_not_asked_for_with_less_than_the_engine_knows(pair: Pair) -> None:
    """Its record is from before it was fenced; the engine has heard since who went on."""
    pair.remember(TOGETHER)
    pair.entered = (Configuration(7, "b", frozenset({"b"})),)
    assert not asyncio.run(pair.arbiter().compare_and_swap(KEY, TOGETHER, SHRUNK))
    assert pair.power.calls() == []
    newest = Configuration(8, "b", BOTH)
    pair.entered = (newest, Configuration(7, "b", frozenset({"b"})))
    assert asyncio.run(pair.arbiter().read(KEY)) == newest


def test_what_is_learned_while_a_node_is_fenced_wins(pair: Pair) -> None:
    """The link came back for a moment, and brought a higher epoch."""
    pair.remember(TOGETHER)
    newer = Configuration(7, "b", frozenset({"b"}))

    async def work() -> None:
        go = pair.records.parent / "go"
        fence = pair.power.fence("waits:status", go_file=str(go))
        arbiter = FenceArbiter("a", Fencer({"b": fence}), pair.records, pair)
        swap = asyncio.create_task(arbiter.compare_and_swap(KEY, TOGETHER, SHRUNK))
        await asyncio.to_thread(
            eventually, lambda: pair.power.actions() == ["off", "status"], "b is being fenced"
        )
        assert await arbiter.learn(KEY, newer), "it does not wait for the fencing"
        go.touch()
        assert not await swap
        assert pair.power.is_off
        assert await arbiter.read(KEY) == newer

    asyncio.run(work())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"epoch": 1}', "[" * 5000, '{"epoch":2,"primary":"a","in_sync":[]}']
)
def test_a_record_that_is_damaged_is_told_with_its_file(pair: Pair, content: str) -> None:
    pair.remember(TOGETHER)
    file = pair.records / KEY.cluster / f"{KEY.resource_id}.json"
    file.write_text(content)
    for call in (
        pair.arbiter().read(KEY),
        pair.arbiter().compare_and_swap(KEY, TOGETHER, SHRUNK),
        pair.arbiter().learn(KEY, SHRUNK),
    ):
        with pytest.raises(ArbiterRefused, match=f"{file}.*remedy: move that file away"):
            asyncio.run(call)
    assert pair.power.calls() == []


def test_a_key_leads_nowhere_else(pair: Pair) -> None:
    for key in (Key("../../x", "5" * 32, "r0"), Key(KEY.cluster, "a/../b", "r0"), Key("", "", "r0")):
        with pytest.raises(ValueError, match="identifies neither"):
            asyncio.run(pair.arbiter().read(key))


# -- A node that ends in good order


def test_who_gave_its_word_is_left_out_without_being_fenced(pair: Pair, tmp_path: Path) -> None:
    """b ends; a goes on alone. b, back before it has met a, changes nothing."""
    pair.remember(TOGETHER)
    other = Pair(tmp_path / "b")
    other.remember(TOGETHER)

    async def work() -> None:
        a, b = pair.arbiter(), other.arbiter(node="b")
        epoch = await b.resign(KEY)
        assert epoch == TOGETHER.epoch
        await a.hear(KEY, "b", epoch)
        assert await a.compare_and_swap(KEY, TOGETHER, SHRUNK)
        again = other.arbiter(node="b")
        assert await again.resigned(KEY) and await again.read(KEY) == TOGETHER
        for new in (Configuration(3, "b", BOTH), PROMOTED):
            with pytest.raises(ArbiterRefused, match="has given its word to be left out of r0"):
                await again.compare_and_swap(KEY, TOGETHER, new)
        assert other.power.calls() == []
        # They meet, and b learns who went on.
        assert await again.learn(KEY, SHRUNK)
        assert not await again.resigned(KEY)

    asyncio.run(work())
    assert pair.power.calls() == []


def test_a_word_is_good_for_one_epoch(pair: Pair) -> None:
    pair.remember(TOGETHER)

    async def work() -> None:
        arbiter = pair.arbiter()
        for epoch in (TOGETHER.epoch - 1, TOGETHER.epoch + 1):
            await arbiter.hear(KEY, "b", epoch)
            await arbiter.hear(KEY, "c", TOGETHER.epoch)
        assert await arbiter.compare_and_swap(KEY, TOGETHER, SHRUNK)

    asyncio.run(work())
    assert pair.power.actions() == ["off", "status"]


def test_a_word_that_was_taken_back_is_worth_nothing(pair: Pair, tmp_path: Path) -> None:
    pair.remember(TOGETHER)
    other = Pair(tmp_path / "b")
    other.remember(TOGETHER)

    async def work() -> None:
        a, b = pair.arbiter(), other.arbiter(node="b")
        epoch = await b.resign(KEY)
        assert epoch is not None
        await a.hear(KEY, "b", epoch)
        await b.withdraw(KEY, await a.forget(KEY, "b"))
        assert not await b.resigned(KEY)
        assert await a.compare_and_swap(KEY, TOGETHER, SHRUNK)

    asyncio.run(work())
    assert pair.power.actions() == ["off", "status"]


def test_whoever_was_left_out_meanwhile_stays_bound(pair: Pair, tmp_path: Path) -> None:
    """a has gone on, and b does not know it yet: freed, it would fence a and lose what a wrote."""
    pair.remember(TOGETHER)
    other = Pair(tmp_path / "b")
    other.remember(TOGETHER)

    async def work() -> None:
        a, b = pair.arbiter(), other.arbiter(node="b")
        epoch = await b.resign(KEY)
        assert epoch is not None
        await a.hear(KEY, "b", epoch)
        assert await a.compare_and_swap(KEY, TOGETHER, SHRUNK)
        await b.withdraw(KEY, await a.forget(KEY, "b"))
        assert await b.resigned(KEY)

    asyncio.run(work())


def test_a_word_cannot_be_taken_back_while_a_swap_relies_on_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.remember(TOGETHER)
    began, go_on = threading.Event(), threading.Event()
    swap = Records.swap

    def slow(*arguments: Any) -> bool:
        began.set()
        assert go_on.wait(20)
        return swap(*arguments)

    monkeypatch.setattr(Records, "swap", slow)

    async def work() -> None:
        arbiter = pair.arbiter()
        await arbiter.hear(KEY, "b", TOGETHER.epoch)
        swapping = asyncio.create_task(arbiter.compare_and_swap(KEY, TOGETHER, SHRUNK))
        assert await asyncio.to_thread(began.wait, 20)
        with pytest.raises(ArbiterRefused, match="is being changed without b"):
            await arbiter.forget(KEY, "b")
        # Not even by one who does not wait for it any more.
        swapping.cancel()
        await asyncio.sleep(0)
        with pytest.raises(ArbiterRefused, match="is being changed without b"):
            await arbiter.forget(KEY, "b")
        go_on.set()
        await asyncio.wait([swapping])
        assert await arbiter.forget(KEY, "b") == SHRUNK.epoch

    asyncio.run(work())
    assert pair.power.calls() == []


def test_a_node_without_a_record_has_no_word_to_give(pair: Pair) -> None:
    assert asyncio.run(pair.arbiter().resign(KEY)) is None
    assert not asyncio.run(pair.arbiter().resigned(KEY))


# -- Both live, and the link between them is cut


class Nodes:
    """Two processes, each with a fence that ends the other's."""

    def __init__(self, base: Path, delays: dict[str, str]) -> None:
        self.base = base
        self.processes: dict[str, subprocess.Popen[str]] = {}
        agent = PowerDevice(base).agent
        tables = [
            f'[node.{node}]\n[fence.{node}]\ndelay = "{delay}"\nlevels = [[{{ agent = "{agent}", options = '
            f'{{ pid_file = "{base / node}.pid" }} }}]]\n'
            for node, delay in delays.items()
        ]
        (base / "cluster.toml").write_text("".join(tables))

    def start(self, node: str, new: Configuration, *, met: bool) -> None:
        setting = {
            "node": node,
            "cluster": str(self.base / "cluster.toml"),
            "records": str(self.base / node / "fence"),
            "met": met,
            "key": [KEY.cluster, KEY.resource_id, KEY.name],
            "expected": TOGETHER.document(),
            "new": new.document(),
        }
        file = self.base / f"{node}.json"
        file.write_text(json.dumps(setting))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.fence_node", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes[node] = process
        (self.base / f"{node}.pid").write_text(str(process.pid))
        assert self.says(node) == "ready"

    def go(self, node: str) -> None:
        """Let it swap."""
        stdin = self.processes[node].stdin
        assert stdin is not None
        stdin.write("\n")
        stdin.flush()

    def says(self, node: str) -> str:
        """Its next line; empty: it ended."""
        stdout = self.processes[node].stdout
        assert stdout is not None
        return stdout.readline().strip()

    def held(self, node: str) -> Configuration | None:
        """What its record says."""
        return asyncio.run(self._arbiter(node).read(KEY))

    def remember(self, node: str, known: Configuration) -> None:
        asyncio.run(self._arbiter(node).learn(KEY, known))

    def _arbiter(self, node: str) -> FenceArbiter:
        return FenceArbiter(node, Fencer({}), self.base / node / "fence", Alone(met=False))

    def end(self, node: str) -> None:
        process = self.processes.pop(node)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    def close(self) -> None:
        for node in list(self.processes):
            self.end(node)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path, {"a": "120s", "b": "0s"})
    try:
        yield made
    finally:
        made.close()


def test_of_two_that_fence_each_other_the_one_with_the_head_start_lives(nodes: Nodes) -> None:
    for node in "ab":
        nodes.remember(node, TOGETHER)
    nodes.start("a", SHRUNK, met=True)
    nodes.start("b", PROMOTED, met=True)
    nodes.go("b")
    nodes.go("a")
    assert nodes.says("a") == "won"
    assert nodes.says("b") == "", "it was ended while it waited"
    assert (nodes.held("a"), nodes.held("b")) == (SHRUNK, TOGETHER)

    # b is switched on again. It remembers that both were in sync, and that a was Primary.
    nodes.end("b")
    nodes.start("b", PROMOTED, met=False)
    nodes.go("b")
    assert nodes.says("b").startswith("refused: a is not fenced")
    assert nodes.processes["a"].poll() is None, "the survivor lives"

    # They meet: b learns who went on, and what it remembered is worth nothing any more.
    nodes.remember("b", SHRUNK)
    nodes.end("b")
    nodes.start("b", PROMOTED, met=True)
    nodes.go("b")
    assert nodes.says("b") == "lost"
    assert nodes.processes["a"].poll() is None
