"""The torture's oracle finds what it is there to find."""

from __future__ import annotations

from tests.e2e.oracle import Oracle, content


def test_an_acknowledged_write_must_be_there() -> None:
    oracle = Oracle(2)
    change = oracle.issue(0, 1, zero=False)
    assert not oracle.wrong(content(0) * 2, settle=False)
    assert not oracle.wrong(content(change.tag) + content(0), settle=False)
    oracle.acknowledge(change)
    assert oracle.wrong(content(0) * 2, settle=False) == [f"block 0 holds 0, may hold {change.tag}"]


def test_a_torn_or_misplaced_block_is_wrong() -> None:
    oracle = Oracle(2)
    change = oracle.issue(0, 1, zero=False)
    oracle.acknowledge(change)
    torn = content(change.tag)[:2048] + bytes(2048)
    assert oracle.wrong(torn + content(0), settle=False)
    assert len(oracle.wrong(content(change.tag) * 2, settle=False)) == 1


def test_a_write_never_answered_may_have_happened_or_not_but_must_not_change_its_mind() -> None:
    oracle = Oracle(1)
    lost = oracle.issue(0, 1, zero=False)
    oracle.lose([lost])
    assert not oracle.wrong(content(lost.tag), settle=False)
    assert not oracle.wrong(content(0), settle=True)
    assert oracle.wrong(content(lost.tag), settle=False)


def test_overlapping_writes_may_end_in_either_order_unless_one_ended_first() -> None:
    oracle = Oracle(1)
    first, second = oracle.issue(0, 1, zero=False), oracle.issue(0, 1, zero=True)
    oracle.acknowledge(second)
    oracle.acknowledge(first)
    assert not oracle.wrong(content(first.tag), settle=False)
    assert not oracle.wrong(content(0), settle=False)
    third = oracle.issue(0, 1, zero=False)
    oracle.acknowledge(third)
    assert oracle.wrong(content(first.tag), settle=False) and oracle.wrong(content(0), settle=False)
