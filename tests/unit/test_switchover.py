"""The talk of two nodes about a move: it succeeds, is refused, comes back, or says where things are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from blockpair.cluster.peers import NoAnswer
from blockpair.config.service import ServiceTable
from blockpair.daemon import switchover
from blockpair.errors import BlockpairError, ErrorKind
from tests.unit.service_world import Pair, until

TAKE_OVER, READY = "peer.service.take-over", "peer.service.ready"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def played(pair: Pair, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """With the service up on a."""

    async def run() -> None:
        async with pair.alive():
            await pair.services["a"].promote("r0", force=False)
            assert pair.state("a") == "up" and pair.resources["a"].primary
            await scene()

    asyncio.run(run())


async def move(pair: Pair, asked: str = "a", to: str | None = None) -> switchover.Switched:
    return await pair.services[asked].switchover("r0", to=to, why="a test")


async def refused(attempt: Awaitable[Any]) -> BlockpairError:
    with pytest.raises(BlockpairError) as caught:
        await attempt
    assert caught.value.remedy
    return caught.value


def stays(pair: Pair, name: str = "a") -> None:
    other = "b" if name == "a" else "a"
    assert pair.resources[name].primary and not pair.resources[other].primary
    assert pair.state(name) == "up" and pair.state(other) == "stopped"
    assert not pair.moving("a") and not pair.moving("b")


@pytest.mark.parametrize("asked", ["a", "b"])
def test_it_moves_whichever_node_is_asked(pair: Pair, asked: str) -> None:
    async def scene() -> None:
        done = await move(pair, asked)
        assert (done.from_node, done.to_node, done.service, done.why) == ("a", "b", True, "a test")
        assert [(step.node, step.name) for step in done.steps] == [
            ("a", "hook demoting"), ("a", "promote"), ("a", "epoch"),
            ("b", "promote"), ("b", "hook promoted"),
        ]  # fmt: skip
        assert 0 <= done.stopped_seconds < 30
        stays(pair, "b")
        assert pair.resources["a"].notes.count("switchover.done") == 1

    played(pair, scene)


def test_the_role_alone_moves_where_the_service_is_to_stay_down(pair: Pair) -> None:
    async def run() -> None:
        async with pair.alive():
            await pair.services["a"].promote("r0", force=False, without_service=True)
            done = await move(pair)
            assert not done.service and pair.resources["b"].primary and pair.said() == []
            assert [(step.node, step.name) for step in done.steps] == [("a", "promote"), ("b", "promote")]
            await until(lambda: (status := pair.services["b"].status("r0")) is not None and status.held)

    asyncio.run(run())


@pytest.mark.parametrize("fails", ["role", "hook"])
def test_what_the_peer_cannot_start_comes_back(pair: Pair, fails: str) -> None:
    async def scene() -> None:
        if fails == "hook":
            pair.fails("promoted")
        else:
            pair.resources["b"].refusal = BlockpairError(ErrorKind.UNSAFE, "its copy is old", "sync it")
        error = await refused(move(pair))
        assert error.kind is ErrorKind.FAILED and "b could not take r0 over" in error.message
        assert "a serves it again, after" in error.message and "--to b" in error.remedy
        stays(pair)

    played(pair, scene)


def test_what_cannot_stop_is_not_handed_over(pair: Pair) -> None:
    async def scene() -> None:
        pair.fails("demoting")
        assert "hook demoting" in (await refused(move(pair))).message
        await until(lambda: not pair.moving("a"))
        stays(pair)
        assert TAKE_OVER not in pair.calls["a"].called

    played(pair, scene)


def test_nothing_is_touched_where_the_peer_could_not_go_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async def stands(word: str, to: str | None = None) -> None:
            assert word in (await refused(move(pair, to=to))).message
            stays(pair)

        before = pair.said()
        await stands("a is Primary of r0 already", to="a")
        await stands("no copy on 'c'", to="c")
        pair.connected = False
        await stands("not connected and in step")
        pair.connected, pair.resources["b"].disk = True, "Inconsistent"
        await stands("not in sync")
        pair.resources["b"].disk = "UpToDate"
        # The peer's own word: another definition, and a cable that is cut there.
        pair.tables["b"] = ServiceTable(vips=["192.0.2.1/24@gone0"])
        await stands("another definition")
        pair.tables["a"] = pair.tables["b"]
        monkeypatch.setattr(psutil, "net_if_stats", dict)
        await stands("no carrier on gone0")
        pair.managers["b"].up = False
        await stands("is down")
        assert pair.said() == before and TAKE_OVER not in pair.calls["a"].called

    played(pair, scene)


def test_there_is_nothing_to_move_where_nobody_is_primary(pair: Pair) -> None:
    async def run() -> None:
        async with pair.alive():
            for asked in ("a", "b"):
                assert "Primary on no node" in (await refused(move(pair, asked))).message

    asyncio.run(run())


def test_meanwhile_every_other_command_waits_for_another_time(pair: Pair) -> None:
    async def scene() -> None:
        asked, may = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            asked.set()
            await may.wait()

        pair.calls["a"].before[READY] = hold
        moving = asyncio.create_task(move(pair))
        await asked.wait()
        services = pair.services["a"]
        for attempt in (
            services.demote("r0"), services.down("r0"), services.promote("r0", force=False), move(pair),
        ):  # fmt: skip
            assert (await refused(attempt)).kind is ErrorKind.BUSY
        may.set()
        assert (await moving).to_node == "b"

    played(pair, scene)


def test_an_answer_that_is_lost_does_not_make_two_of_one(pair: Pair) -> None:
    async def scene() -> None:
        async def lost() -> None:
            raise NoAnswer(ErrorKind.UNREACHABLE, "b cannot be reached: no answer", "look at it")

        pair.calls["a"].after[TAKE_OVER] = lost
        error = await refused(move(pair))
        assert "r0 is on b, but how its service is there is not known here" in error.message
        stays(pair, "b")

    played(pair, scene)


def test_a_peer_that_is_lost_in_the_middle_is_not_waited_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(switchover, "_AWAY_SECONDS", 0.1)

    async def scene() -> None:
        async def dies() -> None:
            pair.connected = False
            await asyncio.Event().wait()

        pair.calls["a"].before[TAKE_OVER] = dies
        error = await refused(move(pair))
        assert "b was lost meanwhile" in error.message and "a serves it again" in error.message
        stays(pair)

    played(pair, scene)


def test_where_neither_can_a_person_is_told_to_look_at_both(pair: Pair) -> None:
    async def scene() -> None:
        gone = BlockpairError(ErrorKind.UNSAFE, "its disk is gone", "mend it")
        for each in pair.resources.values():
            each.refusal = gone
        error = await refused(move(pair))
        assert "b could not take r0 over" in error.message and "did not come back on a" in error.message
        assert "blockpair promote r0" in error.remedy
        # It is tried again by itself.
        for each in pair.resources.values():
            each.refusal = None
        await until(lambda: pair.state("a") == "up" and not pair.moving("a"))
        stays(pair)

    played(pair, scene)


def test_who_has_no_copy_may_ask_nothing(pair: Pair) -> None:
    async def scene() -> None:
        method = pair.methods["a"]["peer.service.switchover"]
        params = switchover.SwitchoverParams("r0", "b", False, "mischief")
        assert "c has no copy of r0" in (await refused(method.run("c", params))).message
        stays(pair)

    played(pair, scene)
