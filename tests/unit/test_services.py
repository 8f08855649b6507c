"""The commands on a node's services, and what a daemon that ends, or was killed, leaves of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockpair.config.service import ServiceTable
from blockpair.daemon import services
from blockpair.daemon.desired import BootMarker
from blockpair.errors import BlockpairError, ErrorKind
from tests.unit.service_world import Pair, until


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_promotion_brings_it_up_and_a_demotion_takes_it_down(pair: Pair) -> None:
    async def run() -> None:
        async with pair.alive():
            a = pair.services["a"]
            assert pair.state("a") == "stopped"
            await a.promote("r0", force=False)
            assert pair.state("a") == "up" and pair.resources["a"].primary
            assert {name: status.state for name, status in a.states().items()} == {"r0": "up"}
            pair.fails("demoting")
            with pytest.raises(BlockpairError, match="the service is up as before"):
                await a.demote("r0")
            assert pair.state("a") == "up" and pair.resources["a"].primary
            await a.demote("r0")
            assert pair.state("a") == "stopped" and not pair.resources["a"].primary
            assert pair.said() == ["promoted", "demoting", "demoting"]

    asyncio.run(run())


def test_a_way_up_that_fails_leaves_the_node_what_it_was_unless_by_force(pair: Pair) -> None:
    async def run() -> None:
        async with pair.alive():
            a = pair.services["a"]
            for force in (False, True):
                pair.fails("promoted")
                with pytest.raises(BlockpairError, match="hook promoted"):
                    await a.promote("r0", force=force)
                assert pair.resources["a"].primary is force
            await until(lambda: pair.state("a") == "up")

    asyncio.run(run())


def test_without_a_service_only_the_role_moves(pair: Pair) -> None:
    async def run() -> None:
        pair.tables["a"] = ServiceTable()
        async with pair.alive():
            a = pair.services["a"]
            assert a.status("r0") is None and a.states() == {} and a.definition("r0") is None
            await a.promote("r0", force=False)
            assert pair.resources["a"].primary and pair.said() == []
            await a.down("r0")
            assert not pair.managers["a"].up and not pair.resources["a"].primary

    asyncio.run(run())


def test_one_that_is_to_stay_down_does_and_one_that_is_up_is_not_made_to(pair: Pair) -> None:
    async def run() -> None:
        async with pair.alive():
            a = pair.services["a"]
            pair.resources["a"].refusal = BlockpairError(ErrorKind.UNSAFE, "its copy is old", "sync it")
            with pytest.raises(BlockpairError, match="its copy is old"):
                await a.promote("r0", force=False, without_service=True)
            held = BootMarker(pair.places("a").service_file("r0", "held"), "boot")
            assert not held.is_set()
            pair.resources["a"].refusal = None
            await a.promote("r0", force=False, without_service=True)
            await until(lambda: (status := a.status("r0")) is not None and status.held)
            assert held.is_set() and pair.said() == []
            await a.promote("r0", force=False)
            assert pair.state("a") == "up" and not held.is_set()
            with pytest.raises(BlockpairError, match="is up here"):
                await a.promote("r0", force=False, without_service=True)

    asyncio.run(run())


@pytest.mark.parametrize("watched", [True, False])
def test_what_is_taken_down_is_no_switchover_that_has_begun(pair: Pair, watched: bool) -> None:
    async def run() -> None:
        async with pair.alive():
            a = pair.services["a"]
            if watched:
                await a.runner("r0")
            BootMarker(pair.places("a").service_file("r0", "moving"), "boot").set()
            await a.down("r0")
            assert not pair.moving("a") and not pair.managers["a"].up

    asyncio.run(run())


@pytest.mark.parametrize("peer", ["takes it", "refuses"])
def test_a_machine_that_goes_down_hands_over_or_takes_down(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, peer: str
) -> None:
    async def stops() -> bool:
        return True

    async def run() -> None:
        async with pair.alive():
            await pair.services["a"].promote("r0", force=False)
            if peer == "refuses":
                pair.resources["b"].disk = "Inconsistent"
            monkeypatch.setattr(services, "machine_stops", stops)
            await pair.services["a"].end()
            assert not pair.resources["a"].primary and pair.said()[1] == "demoting"
            assert pair.resources["b"].primary is (peer == "takes it")
            assert not pair.places("a").service_file("r0", "definition").exists()
            # Of b nothing is left to do: its machine stays.
            monkeypatch.undo()

    asyncio.run(run())


def test_a_daemon_that_ends_leaves_it_to_the_next_one(pair: Pair) -> None:
    async def run() -> None:
        async with pair.alive():
            await pair.services["a"].promote("r0", force=False)
        assert pair.resources["a"].primary and pair.said() == ["promoted"]
        async with pair.alive():
            await until(lambda: pair.state("a") == "up")
            # What was left is looked after, also where its resource is not up any more.
            pair.resources["a"].primary, pair.managers["a"].up = False, False
            await until(lambda: pair.state("a") == "stopped" and pair.said()[-1] == "demoting")
            gone = pair.places("a").service_file("r0", "definition")
            await until(lambda: not gone.exists())

    asyncio.run(run())
