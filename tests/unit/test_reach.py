"""A Primary that no client can reach: its service goes to the peer, and not to and fro with a loose cable."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.failover.carrier import without_carrier
from blockpair.failover.reach import ReachMemory, ReachPolicy, judge_reach
from blockpair.failover.restart import Remedy

POLICY = ReachPolicy()


def run(
    seconds: int, dark: Callable[[int], bool], *, peer_can: bool = True, memory: ReachMemory | None = None
) -> list[tuple[int, Remedy]]:
    """What is done, second by second, on a node that stays Primary whatever is done."""
    memory = memory or ReachMemory()
    done: list[tuple[int, Remedy]] = []
    for now in range(seconds):
        interfaces = ("eth0",) if dark(now) else ()
        memory, verdict = judge_reach(memory, POLICY, interfaces, float(now), peer_can=peer_can)
        if verdict.remedy is not Remedy.NOTHING:
            assert "eth0" in verdict.why
            done.append((now, verdict.remedy))
    return done


def test_a_switch_that_negotiates_anew_moves_nothing() -> None:
    assert run(100, lambda now: now % 10 < 3) == []


def test_what_nobody_reaches_goes_to_the_peer() -> None:
    assert run(14, lambda now: now >= 10) == [(13, Remedy.SWITCHOVER)]
    assert run(14, lambda now: now >= 10, peer_can=False) == [(13, Remedy.STAY)]


def test_one_that_did_not_help_is_tried_ever_more_rarely() -> None:
    tried = [now for now, remedy in run(3000, lambda _: True) if remedy is Remedy.SWITCHOVER]
    assert tried == [3, 63, 363, 1263, 2163]


def test_one_that_came_here_for_that_does_not_go_back_at_once() -> None:
    came = ReachMemory().moved(0.0)
    tried = [now for now, remedy in run(100, lambda _: True, memory=came) if remedy is Remedy.SWITCHOVER]
    assert tried == [60]


@given(st.lists(st.booleans(), min_size=1, max_size=2000))
def test_however_a_cable_comes_and_goes_few_moves_come_of_it(dark: list[bool]) -> None:
    done = run(len(dark), lambda now: dark[now])
    moves = [now for now, remedy in done if remedy is Remedy.SWITCHOVER]
    assert all(later - before >= 60 for before, later in pairwise(moves))
    assert len(moves) <= 4 and all(dark[now] for now in moves)


def test_an_interface_without_a_carrier_is_told_from_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    states = dict(psutil.net_if_stats())
    states["down0"] = states["lo"]._replace(isup=False)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    assert without_carrier(["lo", "down0", "gone0", "down0"]) == ("down0", "gone0")
    assert without_carrier([]) == ()
