"""The judge of the lab's readers finds a read of the past."""

from __future__ import annotations

import pytest

from tests.lab.acknowledged import NotWhole, Stamp, Tenure, Write
from tests.lab.journal import Line
from tests.lab.reads import Read, reads, stale

OLD = Stamp(1, "n1", 7, 3)
ONE, TWO, NEW = Stamp(2, "n1", 1, 3), Stamp(2, "n1", 2, 3), Stamp(3, "n2", 1, 3)
BEFORE: dict[int, Stamp | None] = {3: OLD, 4: None}
HEARD = [
    Tenure("n2", 3, 1, [Write(NEW, 5.0, 5.1)]),
    Tenure("n1", 2, 1, [Write(ONE, 1.0, 1.1), Write(TWO, 2.0, None)]),
]


def test_what_may_be_read() -> None:
    allowed = [
        *(
            Read("n1", 3, 1.05, OLD),
            Read("n1", 3, 1.05, ONE),
            Read("n1", 3, 1.2, ONE),
            Read("n1", 3, 2.1, TWO),
        ),
        # Begun before, answered whenever; and newer than it had to be.
        *(
            Read("n1", 3, 5.0, ONE),
            Read("n2", 3, 5.05, NEW),
            Read("n1", 3, 1.2, NEW),
            Read("n1", 4, 9.0, None),
        ),
    ]
    assert stale(allowed, BEFORE, HEARD) == []


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (Read("n1", 3, 1.2, OLD), "0.100 s after write 1 of n1 (writer 2) was acknowledged"),
        (Read("n1", 3, 5.4, ONE), "read as write 1 of n1 (writer 2), 0.300 s after write 1 of n2 (writer 3)"),
        (Read("n1", 3, 5.4, TWO), "0.300 s after"),
        (Read("n2", 3, 5.2, OLD), "0.100 s after"),
        (Read("n2", 3, 5.2, None), "read as nothing"),
        (Read("n1", 4, 1.0, ONE), "block 4 was read as write 1 of n1"),
        (Read("n1", 4, 1.0, NotWhole("bytes that no writer wrote")), "bytes that no writer wrote"),
    ],
)
def test_what_may_not(read: Read, why: str) -> None:
    (wrong,) = stale([read, read], BEFORE, HEARD)
    assert wrong.startswith(f"{read.node} read the past 2 times: ") and why in wrong


def test_lines_of_two_guests_may_be_a_little_out_of_order() -> None:
    assert stale([Read("n1", 3, 5.15, ONE)], BEFORE, HEARD) == []
    assert stale([Read("n2", 3, 5.15, ONE)], BEFORE, HEARD) != []


def test_what_readers_tell_is_understood() -> None:
    told = [
        *("ready 2", "read 2 3", "try 2 1 3", "saw 2 3 1 n1 7", "ok 2 1", "read 2 4", "saw 2 4"),
        *("read 2 3", "miss 2 3 EIO", "read 2 3", "ready 5", "read 5 3", "saw 5 3 ! a part"),
    ]
    lines = [Line(float(n), text) for n, text in enumerate(told)]
    first, second, third = reads("n1", lines)
    assert first == Read("n1", 3, 1.0, OLD)
    assert second == Read("n1", 4, 5.0, None)
    assert (third.begun, str(third.saw)) == (11.0, "a part")
