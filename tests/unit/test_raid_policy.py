"""Which spare serves which array."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from blockpair.raid.model import Speed
from blockpair.raid.policy import Assignment, Need, Spare, assign, decide
from tests.unit.raid_samples import FAULTY, GIB, array, member

NEED = Need("a", "a", 0, "pool", GIB, Speed.ROTATIONAL, 0, frozenset({"left"}))
OWN = Spare("sdx", "a", "pool", GIB, Speed.ROTATIONAL, "right")


def _first(*spares: Spare, need: Need = NEED) -> str:
    (only,) = assign([need], spares).assignments
    return only.spare.device


def test_the_own_spare_comes_first_even_if_another_would_suit_better() -> None:
    slow = replace(OWN, speed=Speed.ROTATIONAL, enclosure="left", size_bytes=9 * GIB)
    need = replace(NEED, speed=Speed.NVME)
    assert _first(replace(OWN, device="sdy", array="b", speed=Speed.NVME), slow, need=need) == "sdx"


def test_then_the_class_of_speed_then_another_enclosure_then_the_size() -> None:
    pool = replace(OWN, array="b")
    same, faster, slower = (
        replace(pool, device=name, speed=speed)
        for name, speed in (("same", Speed.SSD), ("faster", Speed.NVME), ("slower", Speed.ROTATIONAL))
    )
    need = replace(NEED, speed=Speed.SSD)
    assert _first(slower, faster, same, need=need) == "same"
    assert _first(slower, faster, need=need) == "faster"
    beside = replace(pool, device="beside", enclosure="left")
    larger = replace(pool, device="larger", size_bytes=2 * GIB)
    assert _first(beside, larger) == "larger"
    assert _first(beside) == "beside"
    assert _first(larger, replace(pool, device="z")) == "z"


def test_a_spare_of_another_group_or_too_small_or_needed_at_home_is_not_taken() -> None:
    spares = [
        replace(OWN, device="other", array="b", group="elsewhere"),
        replace(OWN, device="none", array="c", group=None),
        replace(OWN, device="small", size_bytes=GIB - 1),
        replace(OWN, device="home", array="d", size_bytes=GIB),
    ]
    at_home = replace(NEED, array="d", name="d", slot=1)
    decision = assign([NEED, at_home], spares)
    assert [(a.need.array, a.spare.device) for a in decision.assignments] == [("d", "home")]
    ((need, why),) = decision.unmet
    assert need == NEED
    assert all(word in why for word in ("other is of another array", "small is too small", "home is needed"))


def test_arrays_without_a_group_share_nothing() -> None:
    lone = replace(NEED, group=None)
    assert assign([lone], [replace(OWN, array="b", group=None)]).assignments == ()


def test_whoever_survives_least_goes_first_but_nobody_is_left_out_for_comfort() -> None:
    calm = replace(NEED, array="calm", name="calm", margin=1)
    spare = replace(OWN, array="donor")
    decision = assign([calm, NEED], [spare])
    assert [a.need for a in decision.assignments] == [NEED]
    assert [need for need, _ in decision.unmet] == [calm]
    # The urgent one would rather have the small spare, and the other can take no other.
    big = replace(spare, device="big", size_bytes=2 * GIB)
    large = replace(calm, size_bytes=2 * GIB)
    both = assign([NEED, large], [big, spare])
    assert {(a.need.array, a.spare.device) for a in both.assignments} == {("a", "sdx"), ("calm", "big")}


def test_needs_and_spares_are_read_from_arrays() -> None:
    broken = array(
        members=(member("sda", 0), member("sdb", None, FAULTY), member("sdc", 2), member("sdd", 3)),
        group="pool",
    )
    donor = array("donor", (member("sde", 0), member("sdf", 1), member("sdg", None)), level="raid1", slots=2)
    donor = replace(donor, group="pool")
    decision = decide([broken, donor])
    (only,) = decision.assignments
    assert isinstance(only, Assignment) and only.moves
    assert (only.need.name, only.need.slot, only.need.margin, only.spare.device) == ("data", 1, 0, "sdg")
    assert decide([broken]).unmet[0][1] == "there is no spare"


def test_an_array_that_lost_data_or_is_being_filled_needs_none() -> None:
    lost = array(members=(member("sdc", 2), member("sdd", 3)), slots=4)
    filling = array(
        "filling", (member("sda", 0), member("sdb", 1, frozenset({"spare"})), member("sdx", None)), slots=2
    )
    assert decide([lost, filling]).assignments == ()
    assert decide([lost, filling]).unmet == ()


needs = st.lists(
    st.builds(
        Need,
        array=st.sampled_from("abc"),
        name=st.just("n"),
        slot=st.integers(0, 5),
        group=st.sampled_from((None, "p", "q")),
        size_bytes=st.integers(1, 4),
        speed=st.sampled_from(Speed),
        margin=st.integers(0, 2),
        enclosures=st.frozensets(st.sampled_from("xy")),
    ),
    max_size=4,
    unique_by=lambda need: (need.array, need.slot),
)
spares = st.lists(
    st.builds(
        Spare,
        device=st.sampled_from("123456"),
        array=st.sampled_from("abcde"),
        group=st.sampled_from((None, "p", "q")),
        size_bytes=st.integers(1, 4),
        speed=st.sampled_from(Speed),
        enclosure=st.sampled_from((None, "x", "y")),
    ),
    max_size=4,
    unique_by=lambda spare: spare.device,
)


def _allowed(need: Need, spare: Spare, everything: list[Need]) -> bool:
    if spare.size_bytes < need.size_bytes:
        return False
    if spare.array == need.array:
        return True
    at_home = any(other.array == spare.array and other.size_bytes <= spare.size_bytes for other in everything)
    return need.group is not None and need.group == spare.group and not at_home


@given(needs, spares)
def test_no_rule_is_broken_and_nobody_waits_in_vain(needs: list[Need], spares: list[Spare]) -> None:
    """Against all ways to assign: none serves more needs, nor at each urgency as many of the urgent ones."""
    decision = assign(needs, spares)
    assert len({a.spare.device for a in decision.assignments}) == len(decision.assignments)
    assert all(_allowed(a.need, a.spare, needs) for a in decision.assignments)
    served = [a.need for a in decision.assignments]
    assert sorted(map(repr, [*served, *(need for need, _ in decision.unmet)])) == sorted(map(repr, needs))
    assert all(why for _, why in decision.unmet)

    def counts(chosen: list[Need]) -> list[int]:
        return [sum(need.margin <= level for need in chosen) for level in range(3)]

    best = [0, 0, 0]
    for order in permutations([*spares, *[None] * len(needs)], len(needs)):
        pairs = [
            need
            for need, spare in zip(needs, order, strict=True)
            if spare is not None and _allowed(need, spare, needs)
        ]
        best = max(best, counts(pairs))
    assert counts(served) >= best


@given(needs, spares, st.randoms(use_true_random=False))
def test_the_order_of_what_is_told_changes_nothing(
    needs: list[Need], spares: list[Spare], random: Random
) -> None:
    shuffled_needs, shuffled_spares = list(needs), list(spares)
    random.shuffle(shuffled_needs)
    random.shuffle(shuffled_spares)
    assert assign(needs, spares).assignments == assign(shuffled_needs, shuffled_spares).assignments
