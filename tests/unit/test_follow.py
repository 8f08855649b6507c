"""What a node does about its service by itself, from what it sees: every combination keeps the rules."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.failover.follow import PAUSES, Duty, Memory, Role, Seen, decide
from blockpair.failover.plan import Wish
from blockpair.failover.progress import Progress

UP = Seen(Role.SERVING, may_write=True, defined=True, present=True, held=False, complete=True)
NOW = 1000.0


def seen(**changes: object) -> Seen:
    return Seen(**{**{name: getattr(UP, name) for name in UP.__dataclass_fields__}, **changes})


def test_it_is_brought_up_where_the_role_came_and_left_alone_where_it_is_up() -> None:
    assert decide(seen(present=False, complete=True), Memory(), NOW) is Duty.BRING_UP
    assert decide(UP, Memory(up=True), NOW) is Duty.NOTHING
    # After a restart of the daemon: the mount is there, and the addresses went with the daemon.
    assert decide(seen(complete=False), Memory(), NOW) is Duty.BRING_UP
    assert decide(seen(complete=False), Memory(up=True), NOW) is Duty.BRING_UP
    # Up until it is taken down, whatever the configuration says by now.
    assert decide(seen(defined=False), Memory(), NOW) is Duty.BRING_UP
    assert decide(seen(present=False, held=True), Memory(), NOW) is Duty.NOTHING
    assert decide(seen(present=False, defined=False), Memory(), NOW) is Duty.NOTHING


def test_a_failure_is_tried_again_after_longer_and_longer_pauses_without_end() -> None:
    memory = Memory()
    for pause in (*PAUSES, PAUSES[-1]):
        memory = memory.failed(NOW)
        assert decide(seen(present=False), memory, NOW + pause - 0.01) is Duty.NOTHING
        assert decide(seen(present=False), memory, NOW + pause) is Duty.BRING_UP


def test_a_stop_does_not_wait_for_the_pause_of_another_failure() -> None:
    away = seen(role=Role.AWAY, may_write=False)
    assert decide(away, Memory().failed(NOW), NOW) is Duty.STOP
    stuck = Memory().failed(NOW, stopping=True)
    assert decide(away, stuck, NOW) is Duty.NOTHING
    assert decide(away, stuck, NOW + PAUSES[0]) is Duty.STOP


@pytest.mark.parametrize("wish", [Wish.DEMOTE, Wish.HAND_OVER, Wish.STOP])
def test_a_way_down_that_was_cut_is_finished_with_or_without_the_role(wish: Wish) -> None:
    left = Progress(wish, started=frozenset({"mount"}))
    assert decide(seen(unfinished=left), Memory(), NOW) is Duty.FINISH
    assert decide(seen(role=Role.AWAY, may_write=False, unfinished=left), Memory(), NOW) is Duty.FINISH


@pytest.mark.parametrize("wish", [Wish.PROMOTE, Wish.TAKE_OVER])
def test_a_way_up_that_was_cut_is_gone_on_with_unless_it_has_lost_the_role(wish: Wish) -> None:
    early, late = (Progress(wish, started=frozenset(names)) for names in (("epoch", "promote"), ("mount",)))
    assert decide(seen(unfinished=late), Memory(), NOW) is Duty.FINISH
    away = {"role": Role.AWAY, "may_write": False}
    assert decide(seen(**away, unfinished=early), Memory(), NOW) is Duty.FINISH
    assert decide(seen(**away, unfinished=late), Memory(), NOW) is Duty.STOP
    # It began with the role, and never takes it.
    assert decide(seen(**away, unfinished=Progress(Wish.FOLLOW)), Memory(), NOW) is Duty.STOP


def test_a_switchover_that_was_cut_goes_on_here_once_nothing_is_left_to_take_down() -> None:
    away = {"role": Role.AWAY, "may_write": False, "moving": True}
    assert decide(seen(**away), Memory(), NOW) is Duty.STOP
    assert decide(seen(**away, present=False), Memory(), NOW) is Duty.TAKE_BACK
    assert decide(seen(**away, present=False), Memory().failed(NOW), NOW) is Duty.NOTHING


FLAGS = ("may_write", "defined", "present", "held", "complete", "moving")


@given(
    st.sampled_from(Role),
    st.tuples(*(st.booleans() for _ in FLAGS)),
    st.sampled_from([None, *(Progress(wish) for wish in Wish)]),
    st.builds(Memory, st.booleans(), st.integers(0, 9), st.floats(0, NOW), st.booleans()),
)
def test_nothing_is_brought_up_but_by_a_primary_that_may_write(
    role: Role, flags: tuple[bool, ...], left: Progress | None, memory: Memory
) -> None:
    one = Seen(role=role, unfinished=left, **dict(zip(FLAGS, flags, strict=True)))
    duty = decide(one, memory, NOW)
    if duty is Duty.BRING_UP:
        assert role is Role.SERVING and one.may_write and not one.held
    if role is Role.AWAY and one.present and left is None:
        assert duty is Duty.STOP or memory.stopping
    if duty is Duty.FINISH:
        assert left is not None and (role is Role.AWAY or one.may_write)
    if duty is Duty.TAKE_BACK:
        assert role is Role.AWAY and one.moving and not one.present
    if role is Role.RESUMING:
        assert duty is Duty.NOTHING


def test_every_role_is_decided_upon() -> None:
    found = {
        decide(seen(role=role, present=present, complete=complete, moving=True), Memory(up=True), NOW)
        for role, present, complete in itertools.product(Role, (True, False), (True, False))
    }
    assert found == {Duty.NOTHING, Duty.BRING_UP, Duty.STOP, Duty.TAKE_BACK}
