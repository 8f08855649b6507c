"""What is told of a change, and what an array's state means."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.raid.events import Event, Severity, changes
from blockpair.raid.layout import margin
from blockpair.raid.model import Array, Member, Part, Sync
from blockpair.raid.outlook import degraded, healthy, lost, survival, until_whole
from tests.unit.raid_samples import FAULTY, GIB, IN_SYNC, SPARE, array, member

WHOLE = array(members=(*array().members, member("sdf", None)), slots=4)
RECOVERS = Sync("recover", 0, GIB, GIB // (41 * 60))


def _with(base: Array, *members: Member, **more: object) -> Array:
    return replace(base, members=members, **more)  # type: ignore[arg-type]


def _told(before: Array | None, after: Array | None) -> list[Event]:
    return changes(
        {} if before is None else {before.uuid: before}, {} if after is None else {after.uuid: after}
    )


def _only(before: Array | None, after: Array | None) -> Event:
    (event,) = _told(before, after)
    return event


A, B, C, D, F = WHOLE.members
C_FAILED = replace(C, slot=None, flags=FAULTY)
F_FILLS = replace(F, slot=2, flags=SPARE)


def test_a_failure_is_told_with_who_took_over_how_long_and_what_is_survived() -> None:
    event = _only(WHOLE, _with(WHOLE, A, B, C_FAILED, D, F_FILLS, sync=RECOVERS))
    assert (event.code, event.severity, event.device) == ("member.failed", Severity.WARNING, "sdc")
    assert event.text == (
        "sdc failed in data; spare sdf took over; 41m 00s to full redundancy; "
        "survives any one more failure except sdd"
    )


def test_the_steps_of_a_failure_are_told_one_by_one_where_they_are_seen_so() -> None:
    failed = _with(WHOLE, A, B, C_FAILED, D, F)
    filling = _with(WHOLE, A, B, C_FAILED, D, F_FILLS, sync=RECOVERS)
    filled = _with(WHOLE, A, B, C_FAILED, D, replace(F_FILLS, flags=IN_SYNC))
    gone = _with(WHOLE, A, B, D, replace(F_FILLS, flags=IN_SYNC))
    codes = [
        _only(*pair).code for pair in ((WHOLE, failed), (failed, filling), (filling, filled), (filled, gone))
    ]
    assert codes == ["member.failed", "spare.took-over", "member.filled", "member.removed"]
    assert "spare sdf is there and has not begun" in _only(WHOLE, failed).text
    assert _only(filling, filled).consequence == "survives any one failure"
    # And as one, where nobody looked meanwhile.
    failed_and_filled = _told(WHOLE, filled)
    assert [event.code for event in failed_and_filled] == ["member.failed", "member.filled"]
    assert "spare sdf took over; survives any one failure" in failed_and_filled[0].text
    assert [event.code for event in _told(failed, filled)] == ["spare.took-over", "member.filled"]


def test_two_failures_in_different_mirrors_and_in_one() -> None:
    lost_two = array(members=(A, D), slots=4)
    codes = {event.code for event in _told(array(), lost_two)}
    assert codes == {"member.gone"}
    assert survival(lost_two) == "the next failure loses data"
    whole_mirror = array(members=(A, B), slots=4)
    told = _told(array(), whole_mirror)
    assert [event.code for event in told] == ["member.gone", "member.gone", "array.failed"]
    assert all(event.severity is Severity.CRITICAL for event in told)
    assert told[-1].text.startswith("data failed: it lost sdc, sdd")


def test_the_last_copy_stays_a_member_when_it_fails() -> None:
    degraded_one = array(members=(A, B, D), slots=4)
    broken = _only(degraded_one, replace(degraded_one, state="broken"))
    assert (broken.code, broken.severity) == ("array.failed", Severity.CRITICAL)
    assert broken.cause == "data failed: the last copy failed, on sdd"
    assert "has lost data" in broken.consequence


def test_a_member_that_comes_back() -> None:
    away = array(members=(A, B, D), slots=4)
    back = _only(away, array())
    assert (back.code, back.severity) == ("member.filled", Severity.INFO)
    assert back.cause == "sdc came to data and serves"
    filling = _only(away, _with(away, A, B, replace(C, flags=SPARE), D, sync=RECOVERS))
    assert filling.code == "member.filling" and "41m 00s" in filling.text


def test_a_replacement_is_no_failure() -> None:
    leaving = replace(C, flags=frozenset({"in_sync", "want_replacement"}))
    copy = Member("sdf", 2, frozenset({"spare", "replacement"}), size_bytes=GIB)
    during = _with(WHOLE, A, B, leaving, D, copy, sync=RECOVERS)
    began = _told(WHOLE, during)
    assert [event.code for event in began] == ["member.replacing"]
    assert "copied onto sdf" in began[0].text and not degraded(during)
    after = _with(WHOLE, A, B, C_FAILED, D, replace(copy, flags=IN_SYNC))
    # The slot of a faulty member is none any more: whose it was, the look before tells.
    ended = _only(during, after)
    assert (ended.code, ended.severity) == ("member.replaced", Severity.INFO)
    assert ended.text.startswith("sdc was replaced by sdf in data; sdc can be taken out")


def test_spares_read_errors_and_scrubs() -> None:
    assert _only(array(), WHOLE).code == "spare.added"
    assert _only(WHOLE, array()).code == "spare.removed"
    failed = _only(WHOLE, _with(WHOLE, A, B, C, D, replace(F, flags=FAULTY)))
    assert (failed.code, failed.consequence) == ("spare.failed", "0 spares left")
    errors = _only(array(), _with(array(), replace(A, errors=3), B, C, D))
    assert errors.text.startswith(
        "3 sectors of sda in data could not be read; written anew from another copy"
    )
    check = replace(array(), sync=Sync("check", 1, 2, 1))
    assert _only(array(), check).code == "scrub.started"
    clean, dirty = _only(check, array()), _only(check, replace(array(), mismatch_bytes=65536))
    assert (clean.severity, dirty.severity) == (Severity.INFO, Severity.WARNING)
    assert _only(array(), replace(array(), mismatch_bytes=65536)).code == "scrub.ended"
    assert "64 KiB may differ" in dirty.text and "nothing was changed" in dirty.text


def test_arrays_come_and_go() -> None:
    assert _only(None, array()).severity is Severity.INFO
    assert _only(None, array(members=(A, B, D), slots=4)).severity is Severity.WARNING
    assert _only(None, array(members=(A, B), slots=4)).severity is Severity.CRITICAL
    assert _only(array(), None).code == "array.gone"


@pytest.mark.parametrize(
    ("level", "members", "slots", "words"),
    [
        ("raid1", "ab", 2, "survives any one failure"),
        ("raid1", "abc", 3, "survives any 2 failures"),
        ("raid1", "a", 2, "the next failure loses data"),
        ("raid5", "abc", 3, "survives any one failure"),
        ("raid5", "ab", 3, "the next failure loses data"),
        ("raid6", "abcd", 4, "survives any 2 failures"),
        ("raid6", "abc", 4, "survives any one more failure"),
        ("raid0", "ab", 2, "survives no failure"),
        ("raid5", "a", 3, "has lost data: too many members failed"),
    ],
)
def test_what_is_survived_in_words(level: str, members: str, slots: int, words: str) -> None:
    assert survival(array(members=members, level=level, slots=slots)) == words


def test_how_long_until_it_is_whole() -> None:
    away = array(members=(A, B, D), slots=4)
    assert until_whole(array()) == ""
    assert until_whole(away) == "no spare is there: add one"
    waiting = _with(away, A, B, D, F, state="read-auto")
    assert until_whole(waiting) == "it waits for its first write before it rebuilds"
    assert (
        until_whole(_with(away, A, B, D, F_FILLS, sync=Sync("recover", 0, GIB, 0))) == "sdf is being filled"
    )
    assert until_whole(array(members=(A, B), slots=4)).startswith("no spare can help")


flags = st.sampled_from((IN_SYNC, SPARE, FAULTY, frozenset({"in_sync", "want_replacement"})))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    level = draw(st.sampled_from(("raid1", "raid5", "raid6", "raid10")))
    members = []
    free = list(range(4))
    for letter in draw(st.lists(st.sampled_from("abcdef"), max_size=6, unique=True)):
        state = draw(flags)
        slot = None if state is FAULTY or not free else draw(st.sampled_from([None, *free]))
        if state is not FAULTY and state is not SPARE and slot is None:
            continue
        if slot is not None:
            free.remove(slot)
        members.append(member(f"sd{letter}", slot, state))
    return array(members=tuple(members), level=level, slots=4)


@given(arrays(), arrays())
def test_every_loss_is_told_and_only_losses_alarm(before: Array, after: Array) -> None:
    after = replace(after, geometry=before.geometry)
    told = _told(before, after)
    assert _told(after, after) == []
    serving = {m.device for m in before.having(Part.ACTIVE)}
    filled = {m.device for m in after.having(Part.ACTIVE)} - serving
    assert filled == {event.device for event in told if event.code == "member.filled"}
    still = {m.device for m in after.having(Part.ACTIVE, Part.REBUILDING)}
    assert serving - still <= {event.device for event in told}
    returned = {m.device for m in before.having(Part.FAULTY)} & still
    assert returned <= {event.device for event in told}
    assert lost(after) == (margin(after.geometry, after.failed_slots) < 0)
    assert any(event.code == "array.failed" for event in told) == (lost(after) and not lost(before))
    if healthy(after):
        assert not any(event.severity is Severity.CRITICAL for event in told)
    assert all(event.cause and "  " not in event.text for event in told)
