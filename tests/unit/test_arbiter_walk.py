"""Random walks of two nodes, their machines and a register: no acknowledged write is lost, and there
are never two writers; without any one of the rules that is not so.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockpair.arbiter import machine as rules
from tests.arbitration_model import Violation, World

STEPS = 150
WALKS = 3000
# Within so many walks a rule that is missing must be found out.
BUDGET = 6000


def walk(seed: int, without: frozenset[str] = frozenset()) -> World:
    """One walk, the same for the same seed. Raises `Violation`."""
    world, chance = World(without), random.Random(seed)
    for _ in range(STEPS):
        world.step(chance.randrange)
    return world


def test_the_rules_hold_on_every_walk() -> None:
    reached: set[str] = set()
    epochs = acked = 0
    for seed in range(WALKS):
        world = walk(seed)
        assert world.register is not None
        epochs, acked = max(epochs, world.register.epoch), acked + len(world.acked)
        reached |= {" ".join(step.split()[1:]) for step in world.story}
    # A walk that gets nowhere finds nothing.
    assert epochs >= 8 and acked > WALKS
    expected = {"wants to promote", "wants to shrink", "wants to grow", "hands over", "crashes", "resyncs b"}
    assert expected <= reached


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(st.lists(st.integers(0, 2**16), min_size=20, max_size=200))
def test_the_rules_hold_on_walks_that_are_made_smaller(choices: list[int]) -> None:
    """What fails here is shown as the shortest story that still fails."""
    world = World()
    for choice in choices:
        world.step(lambda count, choice=choice: choice % count)  # type: ignore[misc]


# What each rule keeps away, in the words of the check that sees it.
MODEL_RULES = {
    "ack": "not on",
    "fence": "two writers|not on|writes in",
    "shrink": "not on|two writers|differ|writes in",
    "joint": "not on|differ",
    "promote": "two writers|not on",
    "grow": "not on|differ",
    "stay": "not on|differ",
    "handover": "differ",
    "once": "differ|not on",
    "swap": "writes in|not on|two writers|differ",
    # The machine's own: what nobody knows is read again, and an answer is of its ask.
    "unknown": "writes in|not on|two writers|differ",
    "late": "writes in|not on|two writers|differ",
}


def first_violation(without: frozenset[str]) -> Violation:
    """Of the walks within the budget."""
    for seed in range(BUDGET):
        try:
            walk(seed, without)
        except Violation as violation:
            return violation
    pytest.fail(f"{BUDGET} walks without {set(without)} found nothing wrong")


@pytest.mark.parametrize("rule", MODEL_RULES)
def test_no_rule_can_be_left_out(rule: str) -> None:
    violation = first_violation(frozenset((rule,)))
    what = str(violation).partition(";")[0]
    assert any(word in what for word in MODEL_RULES[rule].split("|")), what


def test_a_swap_that_was_not_done_is_not_taken_for_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_settles", lambda _: True)
    assert "writes in" in str(first_violation(frozenset()))


def test_swaps_are_never_repeated_blindly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_reads_first", lambda _: False)
    assert "two swaps" in str(first_violation(frozenset()))
