"""The judge of the lab's writers finds what it is there to find."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.lab.acknowledged import (
    BLOCK,
    Held,
    NotWhole,
    Stamp,
    Tenure,
    Write,
    blocks_of,
    judge,
    read_block,
    tenures,
)
from tests.lab.journal import Line

OLD = Stamp(1, "n1", 7, 3)
BEFORE: dict[int, Stamp | None] = {3: OLD, 4: None}


def _tenure(node: str, life: int, *writes: tuple[int, int, float, float | None]) -> Tenure:
    """Writes as (sequence, block, begun, acknowledged)."""
    made = [Write(Stamp(life, node, n, block), begun, done) for n, block, begun, done in writes]
    return Tenure(node, life, 1, made)


def _stamps(*heard: Tenure) -> dict[tuple[str, int], Stamp]:
    return {(tenure.node, write.stamp.sequence): write.stamp for tenure in heard for write in tenure.writes}


def _judge(held: dict[int, Held], *heard: Tenure) -> list[str]:
    return judge(held, BEFORE, heard)


def test_what_is_as_it_should_be() -> None:
    first = _tenure("n1", 2, (1, 3, 1.0, 1.1), (2, 4, 1.2, 1.3), (3, 3, 1.4, None))
    second = _tenure("n2", 3, (1, 4, 3.0, 3.1))
    at = _stamps(first, second)
    # The write that was never acknowledged may be there or not.
    for last in (at["n1", 1], at["n1", 3]):
        assert _judge({3: last, 4: at["n2", 1]}, first, second) == []
        assert _judge({3: last, 4: at["n2", 1]}, second, first) == []
    assert _judge({3: OLD, 4: None}) == []


def test_an_acknowledged_write_that_is_gone() -> None:
    heard = _tenure("n1", 2, (1, 3, 1.0, 1.1), (2, 3, 1.2, 1.3))
    for older in (OLD, heard.writes[0].stamp, None):
        (wrong,) = _judge({3: older, 4: None}, heard)
        assert "write 2 of n1 (writer 2), acknowledged, is lost" in wrong


def test_an_older_write_over_one_of_the_survivor() -> None:
    """What the old Primary had begun and never heard of reaches the disk after the survivor wrote there."""
    first = _tenure("n1", 2, (1, 4, 1.0, 1.1), (2, 3, 1.2, None))
    second = _tenure("n2", 3, (1, 3, 3.0, 3.1))
    (wrong,) = _judge({3: first.writes[1].stamp, 4: first.writes[0].stamp}, first, second)
    assert "write 1 of n2 (writer 3), acknowledged, is lost" in wrong


def test_a_value_that_nobody_wrote_there() -> None:
    foreign = Stamp(9, "n2", 1, 3)
    (wrong,) = _judge({3: foreign, 4: None})
    assert "holds write 1 of n2 (writer 9): it was not written so" in wrong
    assert _judge({3: None, 4: None}) != []
    assert _judge({3: OLD, 4: NotWhole("bytes that no writer wrote")}) == [
        "block 4 holds bytes that no writer wrote"
    ]
    assert _judge({3: OLD}) == ["block 4 was not read"]


def test_two_writers_though_every_block_is_as_it_should_be() -> None:
    first = _tenure("n1", 2, (1, 3, 1.0, 1.1), (2, 3, 3.5, 3.6))
    second = _tenure("n2", 3, (1, 4, 3.0, 3.1))
    at = _stamps(first, second)
    held: dict[int, Held] = {3: at["n1", 2], 4: at["n2", 1]}
    for heard in ((first, second), (second, first)):
        (wrong,) = _judge(held, *heard)
        assert wrong.startswith("two writers: n1 began 1 writes that were acknowledged")


def test_a_write_that_was_under_way_may_be_told_of_late() -> None:
    """The node was frozen between the acknowledgement and its telling."""
    first = _tenure("n1", 2, (1, 3, 1.0, 1.1), (2, 3, 1.2, 11.0))
    second = _tenure("n2", 3, (1, 4, 3.0, 3.1))
    at = _stamps(first, second)
    assert _judge({3: at["n1", 2], 4: at["n2", 1]}, first, second) == []
    assert _judge({3: at["n1", 1], 4: at["n2", 1]}, first, second) != []


def test_the_role_goes_there_and_back() -> None:
    first = _tenure("n1", 2, (1, 3, 1.0, 1.1))
    second = _tenure("n2", 3, (1, 4, 3.0, 3.1))
    third = _tenure("n1", 2, (2, 3, 5.0, 5.1))
    at = _stamps(first, second, third)
    assert _judge({3: at["n1", 2], 4: at["n2", 1]}, third, first, second) == []
    assert _judge({3: at["n1", 1], 4: at["n2", 1]}, third, first, second) != []


def test_a_block_knows_what_it_is() -> None:
    stamp = Stamp(5, "n2", 8, 6)
    data = stamp.content()
    assert len(data) == BLOCK
    assert read_block(data, 6) == stamp
    assert read_block(bytes(BLOCK), 6) is None
    with pytest.raises(NotWhole, match="of block 6"):
        read_block(data, 7)
    torn = Stamp(5, "n2", 9, 6).content()[: BLOCK // 2] + data[BLOCK // 2 :]
    with pytest.raises(NotWhole, match="a part of write 9"):
        read_block(torn, 6)
    for bad in (bytes([data[0] ^ 1]) + data[1:], data[:20] + b"\xff" + data[21:], b"\x01" * BLOCK):
        with pytest.raises(NotWhole, match="no writer wrote"):
            read_block(bad, 6)


def test_each_node_has_blocks_of_its_own() -> None:
    (one, shared), (other, same) = blocks_of(0, 30), blocks_of(1, 30)
    assert shared == same
    assert len({*one, *other, *shared}) == len(one) + len(other) + len(shared) == 30


def _lines(*texts: str) -> Sequence[Line]:
    return [Line(float(n), text) for n, text in enumerate(texts)]


def test_what_writers_tell_is_understood() -> None:
    told = _lines(
        *("ready 4", "rest 4", "begin 4 1", "try 4 1 17", "ok 4 1", "try 4 2 18", "end 4 1 EIO"),
        *("begin 4 2", "end 4 2 rest", "rest 4"),
        *("ready 5", "begin 5 1", "try 5 1 19"),
    )
    first, second = tenures("n1", told)  # a tenure without a write is none
    assert (first.life, first.end, len(first.acknowledged)) == (4, "EIO", 1)
    assert first.writes == [Write(Stamp(4, "n1", 1, 17), 3.0, 4.0), Write(Stamp(4, "n1", 2, 18), 5.0)]
    assert (second.life, second.end, second.acknowledged) == (5, None, [])
    for bad in (["begin 4 1", "try 4 1 17", "ok 4 2"], ["what"]):
        with pytest.raises(ValueError, match="n1: "):
            tenures("n1", _lines(*bad))
