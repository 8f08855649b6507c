"""What a connect would do, in words, and what may be given up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blockpair.cli.plan_text import outcome, screen, time
from blockpair.cli.resolve import given_up
from blockpair.errors import BlockpairError, ErrorKind, ExitCode
from blockpair.status.plan import Plan, exit_code, peer_is_primary

_SIDE: dict[str, Any] = {
    "resource_id": "1" * 32,
    "size_bytes": 1 << 30,
    "block_size_bytes": 4096,
    "protocol": "C",
    "policy": "manual",
    "priority": 0,
    "role": "Secondary",
    "resuming": False,
    "disk": "UpToDate",
    "generation": {"current": "2" * 16, "bitmap": "1" * 16, "history": ["1" * 16]},
    "dirty_blocks": 3,
    "suspect_extents": 1,
    "full_sync": False,
    "crashed_primary": False,
    "last_primary": True,
    "diverged_at_s": 1_700_000_000,
    "changed_at_s": None,
    "marked": {"blocks": 1024, "bytes": 4 << 20, "exact": True},
}
_DECISION: dict[str, Any] = {
    "rule": "split-brain",
    "direction": "split-brain",
    "goodbye": None,
    "reason": "both have changes",
    "source": None,
    "target": None,
    "victim": None,
    "by": None,
    "compared": {"blocks": 2048, "bytes": 8 << 20, "exact": False},
}


def plan(own: dict[str, Any] | None = None, **decision: Any) -> Plan:
    """A split brain of a and b that a person has to decide, but for the changes."""
    sides = {"own": {**_SIDE, "node": "a", **(own or {})}, "other": {**_SIDE, "node": "b"}}
    base = {"resource": "r0", "node": "a", "peer": "b", "problem": None}
    return msgspec.convert({**base, **sides, "decision": {**_DECISION, **decision}}, Plan)


def unanswered() -> Plan:
    """Nobody was there to ask."""
    return msgspec.structs.replace(plan(), problem="refused", other=None, decision=None)


@pytest.mark.parametrize(
    ("changes", "words", "code"),
    [
        ({}, ["split brain: both have changes", "a would lose at", "b would lose"], 4),
        ({"victim": "b", "source": "a", "target": "b", "by": "priority"},
         ["b gives up its changes by the policy priority", "bundle", "at most 2048 blocks, 8 MiB"], 4),
        ({"direction": "established", "rule": "same"}, ["equal"], 0),
        ({"direction": "source", "rule": "self-ahead", "source": "a", "target": "b"},
         ["b is synced from a", "at most 2048 blocks"], 0),
        ({"direction": "target", "rule": "peer-ahead", "source": "b", "target": "a"},
         ["a is synced from b", "overwritten on a"], 0),
        ({"direction": "wait", "rule": "both-new"}, ["sync r0 --from NODE"], 0),
        ({"direction": "refuse", "rule": None, "goodbye": "Policy", "reason": "policies differ"},
         ["refused before any", "policies differ"], 4),
    ],
)  # fmt: skip
def test_every_outcome_in_words(changes: dict[str, Any], words: list[str], code: int) -> None:
    found = plan({"marked": {"blocks": 1, "bytes": 4096, "exact": False}}, **changes)
    text = "\n".join(outcome(found))
    assert [word for word in words if word not in text] == [], text
    assert text.endswith("nothing was done") and exit_code(found) == code
    assert screen(found)


def test_a_primary_must_be_demoted_before_it_gives_up_its_changes() -> None:
    told = "\n".join(outcome(plan({"role": "Primary"})))
    assert "--discard NODE; first, if that is a, there: blockpair demote r0" in told
    told = "\n".join(outcome(plan({"resuming": True})))
    assert "if that is a, there" in told
    assert "demote" not in "\n".join(outcome(plan()))
    found = plan({"role": "Primary"})
    assert found.other is not None
    both = msgspec.structs.replace(found, other=msgspec.structs.replace(found.other, role="Primary"))
    told = "\n".join(outcome(both))
    assert "--discard NODE; both are Primary, so first, on NODE: blockpair demote r0" in told


def test_without_an_answer_this_side_is_shown() -> None:
    found = unanswered()
    assert "not known" in "\n".join(outcome(found)) and exit_code(found) is ExitCode.FAILED
    assert len(screen(found)) == 3


def test_a_clock_that_is_far_off_is_a_number() -> None:
    assert time(1 << 62) == f"{1 << 62} s after 1970" and time(None) == ""


def test_the_question_names_the_node_and_the_amount() -> None:
    assert given_up(plan(), "b", bundle=True) == (
        "r0: b would lose its changes, 1024 blocks, 4 MiB; saved in a bundle on b first"
    )
    assert "gone for good" in given_up(plan(), "a", bundle=False)


@pytest.mark.parametrize(
    ("found", "victim", "kind", "words"),
    [
        (unanswered(), "b", ErrorKind.FAILED, "cannot be asked"),
        (plan(), "c", ErrorKind.NOT_FOUND, "no node of r0"),
        (plan(direction="established"), "b", ErrorKind.FAILED, "in no split brain"),
        (plan({"role": "Primary"}), "a", ErrorKind.UNSAFE, "a is Primary"),
        (plan({"resuming": True}), "a", ErrorKind.UNSAFE, "a is Primary"),
    ],
)
def test_nothing_is_asked_where_nothing_may_be_given_up(
    found: Plan, victim: str, kind: ErrorKind, words: str
) -> None:
    with pytest.raises(BlockpairError, match=words) as refused:
        given_up(found, victim, bundle=True)
    assert refused.value.kind is kind and refused.value.remedy


@pytest.mark.parametrize(
    ("own", "other", "primary"),
    [
        ({}, {"role": "Primary"}, True),
        ({}, {}, False),
        ({"resource_id": None}, {"role": "Primary"}, True),
        # Only the name is the same.
        ({"resource_id": "3" * 32}, {"role": "Primary"}, False),
        ({}, {"role": "Primary", "disk": "Diskless"}, False),
    ],
)
def test_a_peer_is_primary_by_its_own_word_alone(
    own: dict[str, Any], other: dict[str, Any], primary: bool
) -> None:
    sides = {"own": {**_SIDE, "node": "a", **own}, "other": {**_SIDE, "node": "b", **other}}
    told = msgspec.convert({**msgspec.to_builtins(plan()), **sides}, Plan)
    assert peer_is_primary(told) is primary
    assert not peer_is_primary(msgspec.structs.replace(told, problem="refused", other=None, decision=None))
