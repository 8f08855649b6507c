"""Which copy is right: the decision, where it is made, and what is kept of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.raid import standing as standings
from blockpair.raid.layout import capacity, geometry, stretches
from blockpair.raid.legs import Legs
from blockpair.raid.settle import Interrupted
from blockpair.raid.standing import Standing
from blockpair.raid.vote import Tally, Verdict, differ, of_block, verdict, wrong
from tests.unit.raid_members import BLOCK, CHUNK, COMPONENT, OFFSET, START, Members
from tests.unit.raid_samples import array

A, B, C = b"a" * 4096, b"b" * 4096, b"c" * 4096
COPY = st.sampled_from([A, B, C, None])


@pytest.mark.parametrize(
    ("copies", "peer", "expected"),
    [
        ([A, A], A, Verdict.SAME),
        ([A, B], A, Verdict.HEAL),
        ([B, A], A, Verdict.HEAL),
        ([A, None], A, Verdict.HEAL),
        ([None, None], A, Verdict.HEAL),
        ([B, B], A, Verdict.PEER_DIFFERS),
        ([B, None], A, Verdict.PEER_DIFFERS),
        ([B, C], A, Verdict.UNDECIDED),
        ([B, B, A], A, Verdict.HEAL),
    ],
)
def test_the_peers_copy_is_the_third_vote(copies: list[bytes | None], peer: bytes, expected: Verdict) -> None:
    assert verdict(copies, peer) is expected


@given(st.lists(COPY, min_size=2, max_size=4), st.sampled_from([A, B, C]))
def test_nothing_is_written_over_a_copy_that_another_one_vouches_for_but_by_the_peer(
    copies: list[bytes | None], peer: bytes
) -> None:
    told = verdict(copies, peer)
    read = {copy for copy in copies if copy is not None}
    # What is not anywhere in the array is written there only where nothing else can be read.
    assert (told is Verdict.HEAL) <= (peer in read or not read)
    assert (told is Verdict.SAME) == (copies == [peer] * len(copies))
    assert differ(copies) == (len(set(copies)) > 1 or None in copies)
    members = {f"sd{number}": copy for number, copy in enumerate(copies)}
    assert len(wrong(members, peer)) == sum(copy != peer for copy in copies)


def test_a_block_on_several_members_is_written_as_a_whole_or_not_at_all() -> None:
    assert of_block([Verdict.SAME, Verdict.HEAL]) is Verdict.HEAL
    assert of_block([Verdict.HEAL, Verdict.PEER_DIFFERS]) is Verdict.PEER_DIFFERS
    assert of_block([Verdict.UNDECIDED, Verdict.HEAL]) is Verdict.UNDECIDED


# ---- where the copies are --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "slots", "chunk", "expected"),
    [
        # As `man 4 md` draws them: chunk, and then slot and chunk of the member for each copy.
        ("n2", 4, 3, [(2, 1), (3, 1)]),
        ("n2", 3, 1, [(2, 0), (0, 1)]),
        ("n3", 4, 1, [(3, 0), (0, 1), (1, 1)]),
        ("o2", 4, 5, [(1, 2), (2, 3)]),
        ("f2", 4, 5, [(1, 1), (2, 9)]),
    ],
)
def test_copies_are_where_the_manual_draws_them(
    layout: str, slots: int, chunk: int, expected: list[tuple[int, int]]
) -> None:
    size = 16 << 10
    (stretch,) = stretches(geometry("raid10", slots, layout), size, 16 * size, chunk * size + 512, 1024)
    assert [(slot, at) for slot, at in stretch.copies] == [(s, c * size + 512) for s, c in expected]


@given(
    st.integers(2, 7).flatmap(
        lambda slots: st.tuples(
            st.just(slots), st.sampled_from("nfo"), st.integers(2, slots), st.integers(1, 40), st.data()
        )
    )
)
def test_no_two_copies_share_a_place_and_all_fit(given_: tuple[int, str, int, int, st.DataObject]) -> None:
    slots, kind, copies, chunks, _ = given_
    shape = geometry("raid10", slots, f"{kind}{copies}")
    chunk = 4096
    size = capacity(shape, chunks * chunk, chunk)
    used: set[tuple[int, int]] = set()
    for stretch in stretches(shape, chunk, chunks * chunk, 0, size):
        assert len({slot for slot, _ in stretch.copies}) == copies
        assert used.isdisjoint(stretch.copies)
        used.update(stretch.copies)
        assert all(at + stretch.length <= chunks * chunk for _, at in stretch.copies)
    assert len(used) * chunk == size * copies


# ---- a pass over members that are files --------------------------------------------------------------------


@pytest.fixture(params=["n2 4", "n3 5", "f2 3", "o2 4", "raid1 3"])
def members(request: pytest.FixtureRequest, tmp_path: Path) -> Members:
    kind, slots = request.param.split()
    shape = geometry("raid1", 3) if kind == "raid1" else geometry("raid10", int(slots), kind)
    try:
        made = Members(tmp_path, shape)
        with Legs(made.array, BLOCK, START, block=made.sysfs, devices=made.devices):
            return made
    except OSError:
        pytest.skip("no O_DIRECT in the folder for temporary files")


def test_whichever_copy_is_wrong_it_is_the_one_that_is_healed(members: Members) -> None:
    assert members.equal() and members.settled().healed == 0
    for block, only in ((1, 0), (2, 1), (9, 1), (10, 0)):
        members.write(block * BLOCK + 100, b"decayed", only)
    tally = members.settled()
    assert (tally.healed, tally.left, tally.compared) == (4 * BLOCK, 0, members.size)
    assert sum(tally.members.values()) == 4 * BLOCK
    assert {block for first, count in members.writes for block in range(first, first + count)} == {
        1,
        2,
        9,
        10,
    }
    assert members.equal()


def test_without_a_vote_for_the_peers_copy_nothing_is_written(members: Members) -> None:
    for copy in range(3):
        members.write(5 * BLOCK, bytes([copy + 1]) * 8, copy)
    members.peer[:BLOCK] = bytes(BLOCK)
    tally = members.settled()
    # Block 0: all members agree. That the peer differs is for `verify` to find.
    assert (tally.healed, tally.undecided, tally.left) == (0, BLOCK, BLOCK)
    assert members.writes == [] and members.held is None


def test_a_write_that_is_on_its_way_is_no_difference(members: Members) -> None:
    new = os.urandom(BLOCK)
    members.write(3 * BLOCK, new, 0)

    def arrives() -> None:
        members.write(3 * BLOCK, new)
        members.peer[3 * BLOCK : 4 * BLOCK] = new

    members.on_hold = arrives
    tally = members.settled()
    assert (tally.healed, tally.left) == (0, 0)
    assert members.writes == [] and members.held is None


def test_what_md_knows_to_be_bad_is_no_copy(members: Members) -> None:
    (stretch,) = stretches(members.shape, CHUNK, COMPONENT, START + BLOCK, BLOCK)
    slot, at = stretch.copies[0]
    entry = members.sysfs / members.array.device / "md" / f"dev-{members.names[slot]}"
    (entry / "bad_blocks").write_text(f"{(OFFSET + at) // 512 + 1} 2\n")
    tally = members.settled()
    assert members.writes[0] == (1, 1) and tally.members[members.names[slot]] == BLOCK
    # The list here is not cleared by the write, as md's is: that much cannot be done.
    assert tally.stubborn == BLOCK


def test_it_goes_on_where_it_was_interrupted(members: Members) -> None:
    members.write(2 * BLOCK, b"decayed", 0)
    members.fails = 3
    with pytest.raises(Interrupted) as stopped:
        members.settled()
    assert (stopped.value.at, stopped.value.stuck) == (2 * BLOCK, BLOCK)
    assert "connection was lost" in stopped.value.why
    assert members.settled(stopped.value.at).healed == BLOCK
    members.write(2 * BLOCK, b"decayed", 0)
    entry = members.sysfs / members.array.device / "md" / f"dev-{members.names[-1]}"
    (entry / "state").write_text("faulty\n")
    with pytest.raises(Interrupted, match="a member has left") as left:
        members.settled()
    assert left.value.stuck == 0 and members.held is None and len(members.writes) == 1


# ---- what is kept and told -------------------------------------------------------------------------------


def test_what_becomes_of_a_scrubs_differences_is_kept_and_told() -> None:
    known = replace(array(), mismatch_bytes=8192)
    begun = Standing(8192)
    assert not begun.settled and "peer's copy is to decide" in begun.words
    part = standings.with_tally(begun, Tally(healed=4096), ended=False, waits="r0 is down")
    assert part.words.endswith("decide: r0 is down")
    tally = Tally(healed=4096)
    tally.members["sdb"] += 4096
    ended = standings.with_tally(part, tally, ended=True)
    assert ended.settled and ended.words == "8 KiB healed by the peer's copy"
    (healed,) = standings.told(known, ended)
    assert (healed.code, healed.device) == ("copies.healed", "sdb")
    left = standings.with_tally(ended, Tally(undecided=4096, peer_differs=4096), ended=True)
    assert not left.settled and "no two copies agree" in left.words
    assert [event.code for event in standings.told(known, left)] == ["copies.healed", "copies.undecided"]
    same = standings.with_tally(begun, Tally(), ended=True)
    assert [event.code for event in standings.told(known, same)] == ["copies.same"]
    kept = standings.read({known.uuid: standings.text_of(left), "other": "{damaged"})
    assert kept == {known.uuid: left}
    assert standings.standing_of(known, kept) == left
    # Another scrub has found something else since.
    assert standings.standing_of(replace(known, mismatch_bytes=512), kept) is None
