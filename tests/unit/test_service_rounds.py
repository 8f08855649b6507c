"""What a round of faults under a service measured, what must not have been in it, and the table of many."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.block_app import BLOCK, BLOCKS, content, last_question, lost
from tests.lab.scenarios import GoesOn
from tests.lab.service_rounds import (
    SERVICE_BY_NAME,
    SERVICE_SCENARIOS,
    Fault,
    Late,
    ServiceRound,
    Written,
    late_writes,
    not_as_expected,
    parse_writes,
    service_table,
)


def _written(node: str, *times: tuple[float, float]) -> list[Written]:
    return [Written(node, number, began, ended) for number, (began, ended) in enumerate(times, 1)]


def test_what_an_application_told_ends_with_its_last_whole_line() -> None:
    assert parse_writes("a", "7 1.5 1.75 6\n8 2.0 2.5 -\n9 3.") == [
        Written("a", 7, 1.5, 1.75, 6), Written("a", 8, 2.0, 2.5),
    ]  # fmt: skip
    assert parse_writes("a", "") == []


def test_who_writes_on_though_another_has_taken_over_is_found() -> None:
    a, b = _written("a", (1, 2), (3, 4)), [Written("b", 3, 5, 6, held=3), Written("b", 4, 7, 8)]
    assert late_writes("a", a + b) == late_writes("a", a) == late_writes("a", b) == Late(0, 0)
    assert late_writes("a", [*a, *b, Written("a", 3, 6.1, 6.2), Written("a", 4, 9, 10)]) == Late(2, 0)
    # Begun while the survivor's first write was under way: nobody can have confirmed it.
    assert late_writes("a", [*a, *b, Written("a", 3, 5.1, 5.2)]) == Late(1, 0)


def test_a_write_under_way_at_a_takeover_may_be_acknowledged_late_only_if_the_survivor_had_it() -> None:
    a = _written("a", (1, 2), (3, 4))
    for held, number, expected in (
        (3, 3, Late(0, 1)),
        (2, 3, Late(1, 0)),
        (None, 3, Late(1, 0)),
        # Asked for twice, and answered before.
        (2, 2, Late(0, 1)),
        (3, 4, Late(1, 0)),
    ):
        b = [Written("b", 3, 5, 6, held), Written("b", 4, 7, 8)]
        assert late_writes("a", [*a, *b, Written("a", number, 4.5, 9)]) == expected


def test_who_wrote_in_turn() -> None:
    a, b, again = _written("a", (1, 2)), _written("b", (3, 4)), _written("a", (5, 6))
    assert not_as_expected(GoesOn.SECONDARY, "a", "b", b + a) == []
    assert not_as_expected(GoesOn.PRIMARY, "a", "b", a + again) == []
    for goes_on, orders in ((GoesOn.SECONDARY, (a, a + b + again)), (GoesOn.PRIMARY, (a + b, []))):
        assert all(len(not_as_expected(goes_on, "a", "b", writes)) == 1 for writes in orders)


def test_a_number_is_lost_unless_it_or_a_later_one_is_whole_in_its_block() -> None:
    disk = bytearray(BLOCKS * BLOCK)

    def put(number: int, data: bytes) -> None:
        at = number % BLOCKS * BLOCK
        disk[at : at + len(data)] = data

    put(5, content(5))
    put(6, content(6 + BLOCKS))
    put(7, content(7)[:-1] + b"x")
    put(8, content(9))
    numbers = [5, 6, 6 + BLOCKS, 6 + 2 * BLOCKS, 7, 8, 10]
    assert lost(bytes(disk), numbers) == [6 + 2 * BLOCKS, 7, 8, 10]


def test_of_questions_that_wait_the_last_one_is_answered() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        asked.bind(("127.0.0.1", 0))
        client.bind(("127.0.0.1", 0))
        for number in (7, 7, 7, 8):
            client.sendto(str(number).encode(), asked.getsockname())
        assert last_question(asked) == (8, client.getsockname())
        client.sendto(b"9", asked.getsockname())
        assert last_question(asked) == (9, client.getsockname())


def test_the_table_has_both_side_by_side() -> None:
    ours = [ServiceRound(str(Fault.POWER), n, n + 0.5, 100) for n in range(3)]
    bad = ServiceRound(str(Fault.DISK), 1, None, 7, lost=2, two_holders=True, two_writers=3, wrong=["no end"])
    theirs = [ServiceRound(str(Fault.POWER), 1, 3.0, 9, two_holders=True)]
    done = {str(Fault.POWER): ours, str(Fault.DISK): [bad]}
    lines = service_table(SERVICE_SCENARIOS, done, {str(Fault.POWER): theirs}).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(f"| {SERVICE_BY_NAME['power'].title} | the other node |")
    assert lines[2].endswith("| 1.50 s | 2.50 s | 3 | 300 | 0 | 0 | 0 | 0 | 3.00 s | 3.00 s | 1 | 1 |")
    assert lines[3].endswith("| - | - | 1 | 7 | 2 | 1 | 3 | 1 | - | - | 0 | - |")


@pytest.mark.parametrize(
    "change", [{"lost": 1}, {"two_holders": True}, {"two_writers": 1}, {"wrong": ["it did not end"]}]
)
def test_a_round_is_bad_for_any_one_reason(change: dict[str, object]) -> None:
    assert not ServiceRound("power", 1, 1.0, 5).bad
    assert ServiceRound("power", 1, 1.0, 5, **change).bad  # type: ignore[arg-type]


def test_every_fault_has_its_line() -> None:
    assert sorted(SERVICE_BY_NAME) == sorted(map(str, Fault)) and len(SERVICE_SCENARIOS) == len(Fault)
