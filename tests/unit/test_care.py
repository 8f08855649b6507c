"""The care of services through its own loop, on a clock of its own: two nodes, their health, their units."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from blockpair.daemon.care import Care, Cause, Moved, Seen, remembered
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.events.event import Event
from blockpair.failover.units import UnitError
from blockpair.health.handover import Policy
from blockpair.health.score import Reading, health
from blockpair.units import utc

NODES = ("a", "b")
UNITS = ("db.service", "web.service")


@dataclass
class Pair:
    """Two nodes with one service, and what has been done to it."""

    now: float = 0.0
    primary: str = "a"
    in_sync: bool = True
    reachable: bool = True
    settled: bool = True
    scores: dict[str, float] = field(default_factory=lambda: {"a": 100.0, "b": 100.0})
    dead: set[tuple[str, str]] = field(default_factory=set)
    """Units that are down, by node."""
    stubborn: set[tuple[str, str]] = field(default_factory=set)
    """Those that a restart does not help."""
    dark: set[str] = field(default_factory=set)
    """Nodes whose cable to the clients is cut."""
    refusal: BlockpairError | None = None
    unseen: str = ""
    diskless: str = ""
    """The node whose disk has failed."""
    moves: list[tuple[float, str, str]] = field(default_factory=list)
    restarts: list[tuple[float, str]] = field(default_factory=list)
    asked: int = 0
    cares: dict[str, Care] = field(default_factory=dict)


class View:
    """A node's world."""

    def __init__(self, pair: Pair, node: str) -> None:
        self.pair = pair
        self.node = node
        self.peer = next(one for one in NODES if one != node)

    def names(self) -> list[str]:
        return ["r0"]

    async def seen(self, name: str) -> Seen | None:
        peer = self.peer if self.pair.in_sync else None
        dark = ("eth0",) if self.node in self.pair.dark else ()
        primary, diskless = self.pair.primary == self.node, self.pair.diskless == self.node
        return Seen(primary, self.pair.settled, UNITS, peer, dark, diskless)

    async def active(self, units: tuple[str, ...]) -> frozenset[str]:
        if self.pair.unseen:
            raise UnitError(self.pair.unseen)
        return frozenset(unit for unit in units if (self.node, unit) not in self.pair.dead)

    async def restart(self, name: str, unit: str) -> None:
        self.pair.restarts.append((self.pair.now, unit))
        if (self.node, unit) in self.pair.stubborn:
            raise UnitError(f"{unit} did not start")
        self.pair.dead.discard((self.node, unit))

    def own_score(self) -> float | None:
        return self.pair.scores.get(self.node)

    async def peer_score(self, node: str) -> tuple[float, float] | None:
        self.pair.asked += 1
        return (self.pair.scores[node], 1.0) if self.pair.reachable else None

    async def announce(self, node: str, name: str, cause: Cause) -> None:
        if not self.pair.reachable:
            raise BlockpairError(ErrorKind.UNREACHABLE, f"{node} cannot be reached")
        self.pair.cares[node].moved_here(name, cause, self.node)

    async def switchover(self, name: str, to: str, why: str) -> None:
        if self.pair.refusal is not None:
            raise self.pair.refusal
        if to in self.pair.dark:
            raise BlockpairError(ErrorKind.UNSAFE, f"no client would reach r0 on {to}", "see to its cable")
        self.pair.moves.append((self.pair.now, to, why))
        self.pair.primary = to


def pair(*, hand_over: bool = True, moves: tuple[Moved, ...] = (), **more: Any) -> Pair:
    made = Pair(**more)
    for node in NODES:
        made.cares[node] = Care(
            View(made, node), Policy(), hand_over=hand_over, moves=moves, clock=lambda: made.now
        )
    return made


async def live(made: Pair, seconds: int, step: float = 1.0) -> list[dict[str, Any]]:
    """Let time pass on both; what they told."""
    with capture_logs() as told:
        for _ in range(int(seconds / step)):
            made.now += step
            for care in made.cares.values():
                await care.step()
                await care.idle()
    return [dict(one) for one in told]


def what(told: list[dict[str, Any]]) -> list[str]:
    return [one["event"] for one in told]


def test_all_is_well_and_nobody_asks_the_peer() -> None:
    made = pair()
    assert asyncio.run(live(made, 3600)) == []
    assert (made.moves, made.restarts, made.asked) == ([], [], 0)


def test_a_node_that_no_client_reaches_hands_over_and_takes_back_only_after_a_while() -> None:
    async def run() -> None:
        made = pair(dark={"a"})
        told = await live(made, 20)
        [(at, to, why)] = made.moves
        assert at <= 8 and to == "b" and "no carrier on eth0" in why
        assert what(told) == ["care.switchover", "care.moved-here", "care.switchover-done"]
        assert told[1]["why"] == "clients cannot reach that node"
        # The cable is put in again there, and comes out here.
        made.dark = {"b"}
        told = await live(made, 30)
        assert len(made.moves) == 1 and what(told) == ["care.stays"]
        await live(made, 60)
        assert [to for _, to, _ in made.moves] == ["b", "a"]

    asyncio.run(run())


def test_where_no_client_reaches_either_node_it_stays_and_is_seldom_tried() -> None:
    made = pair(dark={"a", "b"})
    told = asyncio.run(live(made, 1200))
    assert made.moves == [] and made.primary == "a"
    assert what(told).count("care.switchover-failed") == 3


def test_a_cable_that_is_cut_moves_nothing_where_that_is_off() -> None:
    made = pair(dark={"a"}, hand_over=False)
    [told] = asyncio.run(live(made, 300))
    assert told["event"] == "care.stays" and 'hand_over = "off"' in told["text"] and made.moves == []


def test_a_unit_that_dies_once_is_restarted_and_that_is_told() -> None:
    made = pair(dead={("a", "web.service")})
    told = asyncio.run(live(made, 60))
    assert made.restarts == [(3.0, "web.service")] and made.moves == []
    assert what(told) == ["care.unit-restart", "care.unit-recovered"]


def test_a_unit_that_does_not_stay_up_is_restarted_three_times_then_moved_once_then_left() -> None:
    down = {(node, "db.service") for node in NODES}
    made = pair(dead=set(down), stubborn=set(down))
    told = asyncio.run(live(made, 5 * 3600))
    assert Counter(one for one in what(told) if one != "care.unit-restart") == {
        "care.switchover": 1,
        "care.moved-here": 1,
        "care.switchover-done": 1,
        "care.stays": 1,
    }
    assert [to for _, to, _ in made.moves] == ["b"] and "after 3 restarts" in made.moves[0][2]
    assert made.moves[0][0] < 60
    gaps = [
        later - sooner for (sooner, _), (later, _) in zip(made.restarts[:2], made.restarts[1:3], strict=True)
    ]
    assert 5 <= gaps[0] <= 8 and 15 <= gaps[1] <= 18
    stays = next(one for one in told if one["event"] == "care.stays")
    assert "a switchover did not help" in stays["text"] and stays["log_level"] == "error"


def test_what_moved_before_this_daemon_was_started_counts() -> None:
    now = datetime(2026, 11, 24, 10, tzinfo=UTC)
    told = [
        Event(
            1,
            utc(now - timedelta(hours=1)),
            "a",
            "warning",
            "care.moved-here",
            "x",
            resource="r0",
            fields={"cause": "unit"},
        ),
        Event(2, utc(now), "a", "warning", "care.stays", "x", resource="r0"),
    ]
    moves = remembered(told, now)
    assert moves == [Moved("r0", "unit", 3600.0)]
    down = {("a", "db.service")}
    made = pair(dead=set(down), stubborn=set(down), moves=tuple(moves))
    asyncio.run(live(made, 600))
    assert made.moves == []


def test_a_sick_primary_hands_over_once_and_a_short_illness_moves_nothing() -> None:
    made = pair()

    async def days() -> list[dict[str, Any]]:
        await live(made, 1200)
        made.scores["a"] = 20.0
        await live(made, 120)
        made.scores["a"] = 100.0
        assert made.moves == [] and made.asked > 0
        await live(made, 600)
        made.scores["a"] = 20.0
        return await live(made, 4 * 3600)

    told = asyncio.run(days())
    assert [to for _, to, _ in made.moves] == ["b"]
    assert what(told) == ["care.switchover", "care.moved-here", "care.switchover-done"]
    assert "it is sick" in told[0]["why"] and told[0]["cause"] == "health"


def test_a_primary_whose_disk_has_failed_hands_over_and_the_service_stays_there() -> None:
    made = pair(diskless="a")
    told = asyncio.run(live(made, 900))
    assert [to for _, to, _ in made.moves] == ["b"] and made.moves[0][0] < 30
    assert "its disk has failed" in told[0]["why"]
    unmeasured = pair(diskless="a", scores={})
    asyncio.run(live(unmeasured, 60))
    assert [to for _, to, _ in unmeasured.moves] == ["b"]
    stays = pair(diskless="a", in_sync=False)
    told = asyncio.run(live(stays, 900))
    assert stays.moves == [] and what(told) == ["care.stays"]


@pytest.mark.parametrize(
    ("circumstances", "words"),
    [
        ({"in_sync": False}, "the peer is not in sync"),
        ({"reachable": False}, "the peer's health is not known"),
        ({"scores": {"a": 20.0, "b": 30.0}}, "not healthier by enough"),
    ],
)
def test_where_handing_over_would_not_help_a_person_is_told_once(
    circumstances: dict[str, Any], words: str
) -> None:
    made = pair(**{"scores": {"a": 20.0, "b": 100.0}, **circumstances})
    told = asyncio.run(live(made, 3600))
    assert made.moves == [] and what(told) == ["care.stays"] and words in told[0]["text"]


def test_it_can_be_switched_off() -> None:
    down = {("a", "db.service")}
    made = pair(hand_over=False, scores={"a": 20.0, "b": 100.0}, dead=set(down), stubborn=set(down))
    told = asyncio.run(live(made, 4 * 3600))
    assert made.moves == [] and len(made.restarts) >= 3
    stays = [one["text"] for one in told if one["event"] == "care.stays"]
    assert any('hand_over = "off"' in text for text in stays)


def test_a_switchover_that_fails_is_told_and_not_tried_at_once_again() -> None:
    made = pair(scores={"a": 20.0, "b": 100.0}, refusal=BlockpairError(ErrorKind.FAILED, "the mount is busy"))
    told = asyncio.run(live(made, 24 * 3600, step=5.0))
    names = Counter(what(told))
    assert names["care.switchover-failed"] == names["care.switchover"] == Policy().most
    assert names["care.stays"] == 1
    failed = next(one for one in told if one["event"] == "care.switchover-failed")
    assert failed["text"] == "the mount is busy"


def test_nothing_is_done_while_the_service_is_on_its_way() -> None:
    made = pair(settled=False, scores={"a": 20.0, "b": 100.0}, dead={("a", "db.service")})
    asyncio.run(live(made, 3600))
    assert (made.moves, made.restarts) == ([], [])


def test_systemd_that_cannot_be_asked_is_told_once_and_nothing_is_restarted() -> None:
    made = pair(unseen="systemd cannot be asked")
    told = asyncio.run(live(made, 600))
    assert what(told) == ["care.unit-unseen"] and made.restarts == []


def test_a_move_of_what_is_not_here_is_refused() -> None:
    made = pair()
    with pytest.raises(BlockpairError, match="no service of r9"):
        made.cares["a"].moved_here("r9", "unit", "b")


def day(made: Pair, seed: int, *, load: float, failing: float | None = None) -> None:
    """A noisy day: whoever is Primary carries the load; backups and bursts come and go. ``failing``: the hour
    from which on a's disk is slow.
    """
    dice = random.Random(seed)
    bursts = dict.fromkeys(NODES, 0.0)

    async def pass_by() -> None:
        for tick in range(24 * 720):
            made.now = now = 1000 + tick * 5.0
            wave = 1 + 0.3 * math.sin((tick / 720 - 9) / 24 * 2 * math.pi)
            for node in NODES:
                if now > bursts[node] + 300 and dice.random() < 1 / 400:
                    bursts[node] = now + min(120.0, dice.expovariate(1 / 40))
                cpu = (load * wave if node == made.primary else 3) + abs(dice.gauss(0, 12))
                cpu += 60 if now < bursts[node] else 0
                slow = 450 if failing is not None and node == "a" and tick > failing * 720 else 0
                latency = 8 + abs(dice.gauss(0, 12)) + slow
                made.scores[node] = health([Reading("cpu", cpu), Reading("disk-latency", latency)]).score
            for care in made.cares.values():
                await care.step()
                await care.idle()

    with capture_logs():
        asyncio.run(pass_by())


@pytest.mark.parametrize("seed", range(3))
def test_on_a_noisy_day_nothing_moves(seed: int) -> None:
    made = pair()
    day(made, seed, load=15)
    assert made.moves == []


def test_on_a_day_on_which_a_disk_fails_the_service_moves_once_and_soon() -> None:
    made = pair()
    day(made, 7, load=15, failing=12)
    assert [to for _, to, _ in made.moves] == ["b"] and made.moves[0][0] < 1000 + 12.2 * 3600


def test_a_load_that_makes_whoever_carries_it_sick_does_not_go_to_and_fro() -> None:
    made = pair()
    day(made, 3, load=95)
    assert 1 <= len(made.moves) <= Policy().most
