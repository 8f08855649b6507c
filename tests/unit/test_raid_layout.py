"""Where md puts copies, what an array holds and what it survives."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.raid.layout import (
    LEVELS,
    Geometry,
    capacity,
    critical,
    from_md,
    geometry,
    margin,
    mirrors,
    survives,
)


def _sets(*groups: str) -> set[frozenset[int]]:
    return {frozenset(int(slot) for slot in group) for group in groups}


@pytest.mark.parametrize(
    ("slots", "layout", "expected"),
    [
        (4, "n2", _sets("01", "23")),
        (5, "n2", _sets("01", "23", "04", "12", "34")),
        (6, "n3", _sets("012", "345")),
        (4, "f2", _sets("01", "12", "23", "03")),
        (4, "o2", _sets("01", "12", "23", "03")),
        (3, "f3", _sets("012")),
    ],
)
def test_raid10_has_its_copies_where_the_manual_says(
    slots: int, layout: str, expected: set[frozenset[int]]
) -> None:
    assert set(mirrors(geometry("raid10", slots, layout))) == expected


def test_far_sets_confine_copies() -> None:
    far2_in_sets = from_md("raid10", 4, 0x201 | 2 << 17)
    assert set(mirrors(far2_in_sets)) == _sets("01", "23")
    # The last set takes what is left over.
    assert set(mirrors(from_md("raid10", 5, 0x201 | 2 << 17))) == _sets("01", "23", "34", "24")


@pytest.mark.parametrize(
    ("number", "layout"), [(0x102, "n2"), (0x201, "f2"), (0x10201, "o2"), (0x103, "n3"), (0x202, "f2+n2")]
)
def test_the_kernels_number_is_read(number: int, layout: str) -> None:
    assert from_md("raid10", 6, number).layout == layout


@pytest.mark.parametrize(
    ("level", "slots", "layout", "word"),
    [
        ("raid7", 4, "", "raid7"),
        ("raid10", 1, "", "2 members or more"),
        ("raid10", 4, "x2", "x2"),
        ("raid10", 4, "n5", "5 copies on 4"),
        ("raid10", 4, "n1", "1 copies"),
        ("raid6", 3, "", "4 members"),
        ("raid1", 2, "n2", "only raid10"),
    ],
)
def test_what_cannot_be_is_refused_in_words(level: str, slots: int, layout: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        geometry(level, slots, layout)


def test_what_arrays_hold() -> None:
    chunk = 512 << 10
    assert capacity(geometry("raid10", 4), 10 * chunk + 5, chunk) == 20 * chunk
    assert capacity(geometry("raid10", 5), 10 * chunk, chunk) == 25 * chunk
    assert capacity(geometry("raid10", 4, "f2"), 11 * chunk, chunk) == 20 * chunk
    assert capacity(geometry("raid10", 3, "n3"), 10 * chunk, chunk) == 10 * chunk
    assert capacity(geometry("raid1", 3), 10 * chunk + 5, 0) == 10 * chunk + 5
    assert capacity(geometry("raid5", 4), 10 * chunk, chunk) == 30 * chunk
    assert capacity(geometry("raid6", 4), 10 * chunk, chunk) == 20 * chunk


def test_which_failures_four_disks_survive() -> None:
    shape = geometry("raid10", 4)
    assert margin(shape, set()) == 1 and critical(shape, set()) == frozenset()
    assert margin(shape, {0}) == 0 and critical(shape, {0}) == {1}
    assert survives(shape, {0, 2}) and critical(shape, {0, 2}) == {1, 3}
    assert not survives(shape, {0, 1})
    far = geometry("raid10", 4, "f2")
    assert critical(far, {0}) == {1, 3} and survives(far, {0, 2})


shapes = st.builds(
    lambda slots, near, far, offset, sets: Geometry(
        "raid10", slots, min(near, slots), min(far, max(1, slots // min(near, slots))), offset, sets
    ),
    st.integers(2, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from((0, 2)),
)


@given(shapes)
def test_every_slot_is_used_and_every_copy_is_on_a_slot_of_its_own(shape: Geometry) -> None:
    found = mirrors(shape)
    assert frozenset().union(*found) == frozenset(range(shape.slots))
    if shape.sets == 0:
        assert {len(mirror) for mirror in found} == {shape.near * shape.far}


@given(shapes | st.builds(geometry, st.sampled_from(LEVELS[:-1]), st.integers(4, 7)), st.data())
def test_margin_is_the_most_failures_that_are_always_survived(shape: Geometry, data: st.DataObject) -> None:
    """Against the definition: try all further failures."""
    failed = frozenset(data.draw(st.sets(st.integers(0, shape.slots - 1))))
    left = margin(shape, failed)
    assert survives(shape, failed) == (left >= 0)
    others = [slot for slot in range(shape.slots) if slot not in failed]
    if left < 0:
        assert critical(shape, failed) == frozenset()
        return
    assert all(survives(shape, {*failed, *more}) for more in combinations(others, left))
    if left + 1 <= len(others):
        assert any(not survives(shape, {*failed, *more}) for more in combinations(others, left + 1))
    assert bool(critical(shape, failed)) == (left == 0 and bool(others))


@given(shapes, st.integers(1, 1 << 20), st.sampled_from((4096, 65536, 524288)))
def test_an_array_never_holds_more_than_its_members_divided_by_the_copies(
    shape: Geometry, chunks: int, chunk: int
) -> None:
    held = capacity(shape, chunks * chunk, chunk)
    exact = chunks * chunk * shape.slots / (shape.near * shape.far)
    assert held % chunk == 0
    assert exact - chunk * (shape.slots + 1) < held <= exact
