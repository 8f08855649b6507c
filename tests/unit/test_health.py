"""The score is monotonic and bounded and hides nothing; the switchovers that it leads to never flap."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.health.handover import Decision, Look, Policy, Watch, dwell, look, switched
from blockpair.health.score import DEFAULT_SCALES, Reading, Scale, health

kinds = st.sampled_from(sorted(DEFAULT_SCALES))
values = st.floats(-1e9, 1e9) | st.just(math.nan) | st.just(math.inf)
readings = st.lists(st.builds(Reading, kinds, values, st.sampled_from(["", "sda", "eth0"])), max_size=12)


@given(readings)
def test_the_score_is_bounded_and_every_part_that_is_not_perfect_is_a_reason(given_: list[Reading]) -> None:
    found = health(given_)
    assert 0 <= found.score <= 100
    assert len(found.parts) == len(given_)
    if found.parts:
        assert len(found.reasons) == len([part for part in found.parts if part.score < 100])


@given(readings, st.integers(0, 11), st.floats(0, 1e6))
def test_a_part_that_gets_worse_never_makes_the_score_better(
    given_: list[Reading], at: int, by: float
) -> None:
    if not given_:
        return
    at %= len(given_)
    scale = DEFAULT_SCALES[given_[at].kind]
    worse = given_[at].value + (by if scale.bad > scale.good else -by)
    changed = [*given_]
    changed[at] = replace(given_[at], value=worse)
    if math.isnan(given_[at].value):
        return
    assert health(changed).score <= health(given_).score + 1e-9


@given(readings, kinds)
def test_a_saturated_part_is_not_hidden_by_any_number_of_others(given_: list[Reading], kind: str) -> None:
    """It alone brings the node below the score under which it hands over."""
    scale = DEFAULT_SCALES[kind]
    found = health([*given_, Reading(kind, scale.bad)])
    assert found.score <= 100 - 100 * scale.severity + 1e-9
    if kind not in ("bond", "clock"):
        assert found.score < Policy().sick_below
    # Others that idle do not help it.
    idle = [Reading("cpu", 0.0, str(number)) for number in range(50)]
    assert health([*idle, Reading(kind, scale.bad)]).score <= 100 - 100 * scale.severity + 1e-9


def test_one_measure_is_straight_between_good_and_bad() -> None:
    scale = Scale(good=10, bad=80, weight=1, severity=1)
    assert [scale.score(value) for value in (0, 10, 45, 80, 100, math.nan)] == [100, 100, 50, 0, 0, 0]
    # Where less is worse, too.
    assert [Scale(10, 2, 1, 1).score(value) for value in (12, 6, 1)] == [100, 50, 0]
    assert health([Reading("cpu", 45.0)]).score == 50
    assert health([]).reasons == ("nothing could be measured",)


@pytest.mark.parametrize(
    "numbers", [(1, 1, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0), (0, 1, 1, 1.5), (0, math.inf, 1, 1)]
)
def test_a_scale_that_is_none_is_refused(numbers: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"scale|weight"):
        Scale(*numbers)


POLICY = Policy()


def after(
    seconds: float, seen: Look, watch: Watch | None = None, start: float = 0.0
) -> tuple[Watch, Decision]:
    """The decision after so long of the same, looked at every five seconds."""
    watch = watch or Watch()
    now = start
    while True:
        watch, decision = look(watch, POLICY, seen, now)
        if now >= start + seconds:
            return watch, decision
        now += 5


SICK = Look(own=30, peer=95, peer_in_sync=True, primary=True)


def test_a_sick_primary_hands_over_to_a_peer_that_is_well_and_in_sync() -> None:
    _, decision = after(POLICY.dwell + POLICY.patience, SICK)
    assert decision.hand_over and "30" in decision.why


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (replace(SICK, primary=False), "not Primary"),
        (replace(SICK, own=70), "it is well"),
        (replace(SICK, peer_in_sync=False), "not in sync"),
        (replace(SICK, peer=None), "not known"),
        (replace(SICK, peer_age=60), "not known"),
        (replace(SICK, peer=70), "not healthier"),
        (replace(SICK, own=58, peer=77), "not healthier"),
    ],
)
def test_it_does_not_where_that_would_not_help(seen: Look, why: str) -> None:
    _, decision = after(3 * POLICY.dwell, seen)
    assert not decision.hand_over and why in decision.why


def test_a_short_spell_is_sat_out_and_one_that_comes_and_goes_in_the_middle_is_one() -> None:
    watch, decision = after(POLICY.dwell, replace(SICK, own=95))
    watch, decision = after(20, SICK, watch, POLICY.dwell)
    assert not decision.hand_over
    watch, _ = after(120, replace(SICK, own=95), watch, POLICY.dwell + 25)
    assert watch.sick_since is None
    # Between the two thresholds nothing changes, whichever way it came.
    watch, _ = after(150, SICK, watch, POLICY.dwell + 200)
    watch, decision = after(150, replace(SICK, own=63), watch, POLICY.dwell + 355)
    assert watch.sick_since is not None and decision.hand_over


def test_each_switchover_makes_the_next_harder_and_then_it_stays_put_and_says_so() -> None:
    watch, now, times = Watch(), 0.0, []
    while now < 86000:
        watch, decision = look(watch, POLICY, SICK, now)
        if decision.hand_over:
            times.append(now)
            watch = switched(watch, now)
        now += 5
    assert len(times) == POLICY.most
    gaps = [later - sooner for sooner, later in zip([0.0, *times], times, strict=False)]
    assert all(later >= sooner * 1.5 for sooner, later in itertools.pairwise(gaps))
    assert decision.alert and "did not help" in decision.why
    assert dwell(watch, POLICY) == POLICY.dwell * 8


def test_a_primary_without_its_disk_hands_over_soon_however_healthy_and_however_often_it_moved() -> None:
    gone = replace(SICK, own=100, peer=None, diskless=True)
    moved = Watch(switchovers=tuple(float(at) for at in range(POLICY.most)))
    watch, decision = after(POLICY.disk_patience - 5, gone, moved, 1000)
    assert not decision.hand_over and "its disk has failed" in decision.why
    watch, decision = after(5, gone, watch, 1000 + POLICY.disk_patience)
    assert decision.hand_over
    # A try that failed is repeated, not at once.
    watch = switched(watch, 1030)
    watch, decision = after(POLICY.patience - 10, gone, watch, 1035)
    assert not decision.hand_over
    watch, decision = after(10, gone, watch, 1030 + POLICY.patience)
    assert decision.hand_over
    _, decision = after(60, replace(gone, peer_in_sync=False))
    assert not decision.hand_over and decision.alert
    watch, _ = after(60, gone)
    _, decision = after(5, replace(gone, diskless=False), watch, 65)
    assert "it is well" in decision.why


def day(seed: int, *, load: float, noise: float, failing: float | None = None) -> list[float]:
    """A noisy day of two nodes, looked at every five seconds: when the service moved.

    Whoever is Primary carries the load, which comes and goes with the hour. ``failing``: from this hour on
    the first node's disk is slow.
    """
    dice = random.Random(seed)
    watches = [Watch(), Watch()]
    primary = 0
    moved: list[float] = []
    bursts = [0.0, 0.0]
    for tick in range(24 * 720):
        now = tick * 5.0
        hour = now / 3600
        scores = []
        for node in (0, 1):
            if now > bursts[node] + 300 and dice.random() < 1 / 400:
                bursts[node] = now + min(120.0, dice.expovariate(1 / 40))
            wave = 1 + 0.3 * math.sin((hour - 9) / 24 * 2 * math.pi)
            cpu = (load * wave if node == primary else 3) + abs(dice.gauss(0, noise))
            if now < bursts[node]:
                cpu += 60
            latency = 8 + abs(dice.gauss(0, noise))
            if failing is not None and node == 0 and hour > failing:
                latency += 450
            scores.append(health([Reading("cpu", cpu), Reading("disk-latency", latency)]).score)
        for node in (0, 1):
            seen = Look(scores[node], scores[1 - node], True, node == primary)
            watches[node], decision = look(watches[node], POLICY, seen, now)
            if decision.hand_over:
                moved.append(hour)
                watches = [switched(watch, now) for watch in watches]
                primary = 1 - primary
                break
    return moved


@pytest.mark.parametrize("seed", range(3))
def test_on_a_noisy_day_nothing_moves(seed: int) -> None:
    assert day(seed, load=15, noise=12) == []


def test_on_a_day_on_which_a_disk_fails_the_service_moves_once_and_soon() -> None:
    moved = day(7, load=15, noise=12, failing=12)
    assert len(moved) == 1 and 12 < moved[0] < 12.2


def test_a_load_that_makes_whoever_carries_it_sick_does_not_go_to_and_fro() -> None:
    moved = day(3, load=95, noise=10)
    assert 1 <= len(moved) <= POLICY.most
    assert all(later - sooner > 0.3 for sooner, later in itertools.pairwise(moved))
