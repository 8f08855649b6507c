"""The chain of the configuration's versions: who goes forward, who is in conflict, that nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.cluster import history
from blockpair.cluster.history import (
    History,
    Relation,
    Version,
    accepted,
    first_version,
    history_of,
    only_in,
    relation,
    text_diff,
)

START = first_version("start\n", author="a", time="t", why="init")


def _next(base: History, text: str, author: str = "a") -> History:
    return base.with_next(base.followed_by(text, author=author, time="t", why="edit"))


def _accept(ours: History, theirs: History, author: str = "a") -> History:
    return accepted(ours, theirs, author=author, time="t", why="accept")


def test_a_node_that_was_away_goes_forward() -> None:
    later = _next(_next(START, "one\n"), "two\n")
    assert relation(START, later) is Relation.BEHIND
    assert relation(later, START) is Relation.AHEAD
    assert relation(later, later) is Relation.EQUAL
    assert START.grafted(later.since(START.ids)) == later


def test_two_heads_are_a_conflict_even_with_equal_texts() -> None:
    ours, theirs = _next(START, "same\n", "a"), _next(START, "same\n", "b")
    assert relation(ours, theirs) is Relation.CONFLICT
    assert [v.author for v in only_in(ours, theirs)] == ["a"]


def test_what_was_given_up_goes_forward_to_what_it_was_given_up_for() -> None:
    ours, theirs = _next(_next(START, "a1\n"), "a2\n"), _next(START, "b1\n", "b")
    ended = _accept(ours, theirs)
    assert ended.head.text == "b1\n"
    assert relation(theirs, ended) is Relation.BEHIND
    assert relation(ours, ended) is Relation.BEHIND
    # A third node that has only the first of the two that were given up.
    assert relation(_next(START, "a1\n"), ended) is Relation.BEHIND
    assert ours.grafted(ended.since(ours.ids)) == ended
    # What follows what was given up is no part of it.
    assert relation(_next(ours, "a3\n"), ended) is Relation.CONFLICT


def test_both_accept_each_other_at_once_and_are_in_conflict_still() -> None:
    a, b = _next(START, "a\n", "a"), _next(START, "b\n", "b")
    ours, theirs = _accept(a, b, "a"), _accept(b, a, "b")
    assert relation(ours, theirs) is Relation.CONFLICT
    assert relation(theirs, _accept(ours, theirs)) is Relation.BEHIND


@pytest.mark.parametrize("field_name", ["number", "parent", "author", "time", "why", "text", "over"])
def test_a_changed_version_breaks_the_chain(field_name: str) -> None:
    chain = _next(_next(START, "one\n"), "two\n")
    middle = chain.versions[1]
    other = {"number": 5, "over": ("x",)}.get(field_name, "other")
    forged = msgspec.structs.replace(middle, **{field_name: other})
    with pytest.raises(ValueError, match="follow"):
        history_of((chain.versions[0], forged, chain.versions[2]))


def test_no_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        history_of(())
    with pytest.raises(ValueError, match="cannot be the first"):
        history_of([Version(1, "x", "a", "t", "w", "")])
    with pytest.raises(ValueError, match="no version"):
        START.grafted(())


def test_a_long_history_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_VERSIONS", 3)
    chain = START
    for number in range(5):
        chain = _next(chain, f"{number}\n")
    assert [v.text for v in chain.versions] == ["2\n", "3\n", "4\n"]
    # Who fell behind what is kept is asked for, never overwritten.
    assert relation(START, chain) is Relation.CONFLICT
    assert START.grafted(chain.since(START.ids)) == chain
    monkeypatch.setattr(history, "MAX_TEXT_BYTES", 4)
    assert [v.text for v in _next(chain, "5\n").versions] == ["4\n", "5\n"]


def test_a_diff_names_both_sides() -> None:
    assert text_diff("x\n", "x\n", "old", "new") == ""
    assert text_diff("x", "y\n", "old", "new") == "--- old\n+++ new\n@@ -1 +1 @@\n-x\n+y\n"


@dataclass
class _World:
    """Nodes with their histories; ``made`` is every version that was ever a node's head."""

    heads: list[History]
    made: dict[str, Version] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)

    def edit(self, node: int, text: str) -> None:
        self.heads[node] = _next(self.heads[node], text, "abc"[node])
        self.made[self.heads[node].head_id] = self.heads[node].head

    def meet(self, one: int, other: int) -> Relation:
        """Contact: who is behind goes forward, by what is sent over the wire."""
        ours, theirs = self.heads[one], self.heads[other]
        found = relation(ours, theirs)
        mirrored = {Relation.BEHIND: Relation.AHEAD, Relation.AHEAD: Relation.BEHIND}
        assert relation(theirs, ours) is mirrored.get(found, found)
        if found is Relation.BEHIND:
            self.heads[one] = ours.grafted(theirs.since(ours.ids))
        if found is Relation.AHEAD:
            self.heads[other] = theirs.grafted(ours.since(theirs.ids))
        return found

    def accept(self, one: int, other: int) -> None:
        ours, theirs = self.heads[one], self.heads[other]
        if relation(ours, theirs) is not Relation.CONFLICT:
            return
        self.given_up |= {v.id() for v in only_in(ours, theirs)}
        self.heads[one] = _accept(ours, theirs, "abc"[one])
        self.made[self.heads[one].head_id] = self.heads[one].head


_STEP = st.tuples(st.sampled_from(["edit", "meet", "meet", "accept"]), st.integers(0, 2), st.integers(0, 2))


@given(nodes=st.sampled_from([2, 3]), steps=st.lists(_STEP, max_size=25))
def test_after_contact_heads_are_equal_or_in_conflict_and_nothing_is_lost(
    nodes: int, steps: list[tuple[str, int, int]]
) -> None:
    world = _World([START] * nodes)
    for number, (what, *chosen) in enumerate(steps):
        one, other = (node % nodes for node in chosen)
        if what == "edit":
            world.edit(one, f"{number}\n")
        elif one != other and what == "accept":
            world.accept(one, other)
        elif one != other and world.meet(one, other) is not Relation.CONFLICT:
            assert world.heads[one] == world.heads[other]
        # What was made is in somebody's history, unless a person gave it up.
        held = {version_id for head in world.heads for version_id in head.ids}
        assert world.made.keys() - world.given_up <= held
    # A person who always takes node 0's ends every conflict.
    for _ in range(2):
        for node in range(1, nodes):
            world.accept(node, 0)
            world.meet(0, node)
    for node in range(1, nodes):
        world.meet(0, node)
    assert len({head.head_id for head in world.heads}) == 1
