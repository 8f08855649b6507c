"""What a round of the lab's scenarios measured, and the table of many."""

from __future__ import annotations

import pytest

from tests.lab.acknowledged import Stamp, Tenure, Write
from tests.lab.rounds import MarkerMissing, Round, Times, measure, not_as_expected, place, table
from tests.lab.scenarios import BY_NAME, SCENARIOS, GoesOn

TIMES = Times(fault=10.0, mended=15.0, over=20.0, primary="n1")


def _tenure(node: str, *acknowledged: float) -> Tenure:
    writes = [Write(Stamp(1, node, n, n), at - 0.1, at) for n, at in enumerate(acknowledged)]
    return Tenure(node, 1, 1, writes)


def test_the_time_until_the_other_node_takes_writes() -> None:
    heard = [_tenure("n2", 3.0, 12.5, 12.6), _tenure("n1", 9.8, 9.9, 10.05)]
    assert measure(GoesOn.SECONDARY, TIMES, heard) == {"takeover_s": 2.5}
    assert measure(GoesOn.SECONDARY, TIMES, heard[1:]) == {}


def test_the_stall_of_a_primary_that_goes_on() -> None:
    # The gap of two seconds lies before the fault, that of four after the mending.
    heard = [_tenure("n1", 7.0, 9.0, 9.9, 10.7, 11.0, 15.0, 15.1, 19.1)]
    assert measure(GoesOn.PRIMARY, TIMES, heard) == {"stall_s": 4.0}
    heard = [_tenure("n1", 7.0, 9.0, 9.9, 10.5, 10.9, 11.2, 15.1)]
    assert measure(GoesOn.PRIMARY, TIMES, heard)["stall_s"] == pytest.approx(3.9)
    heard = [_tenure("n1", 9.9, 10.7, 11.0), _tenure("n1", 11.2, 16.0)]
    assert measure(GoesOn.PRIMARY, TIMES, heard)["stall_s"] == pytest.approx(4.8)


def test_the_time_from_the_mending_on() -> None:
    assert measure(GoesOn.NOBODY, TIMES, [_tenure("n1", 9.9), _tenure("n2", 15.25)]) == {"resumed_s": 0.25}


def test_who_goes_on_that_should_not() -> None:
    both = [_tenure("n1", 9.9, 14.0, 16.0), _tenure("n2", 14.5)]
    expected = {GoesOn.PRIMARY: ["n2"], GoesOn.SECONDARY: ["n1"], GoesOn.NOBODY: ["n1", "n2"]}
    for goes_on, nodes in expected.items():
        wrong = not_as_expected(goes_on, TIMES, both, patience_s=1.0)
        assert [line.split()[0] for line in wrong] == nodes
    assert not_as_expected(GoesOn.NOBODY, TIMES, [_tenure("n1", 9.9, 10.9, 16.0)], patience_s=1.0) == []


def test_the_table() -> None:
    takeovers = [Round("primary-power", n, 100, 20, takeover_s=n + 0.5) for n in range(3)]
    bad = Round("link", 0, 7, stall_s=None, wrong=["block 3 holds nothing", "two writers"])
    lines = table(SCENARIOS, {"primary-power": takeovers, "link": [bad]}).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(f"| {BY_NAME['primary-power'].title} | the Secondary takes over |")
    assert lines[2].endswith("| 1.50 s | 2.50 s | 3 | 300 | 60 | 0 |")
    assert lines[3].endswith("| none | none | 1 | 7 | 0 | 1 |")


def test_its_place_in_a_document() -> None:
    page = (
        "# T\n<!-- scenarios: default -->\nold\n<!-- end -->\nmore\n<!-- scenarios: fast -->\n<!-- end -->\n"
    )
    assert place(page, "fast", "| new |") == page.replace("fast -->\n", "fast -->\n| new |\n")
    assert place(page, "default", "| new |") == page.replace("old", "| new |")
    with pytest.raises(MarkerMissing, match="scenarios: wan"):
        place(page, "wan", "| new |")


def test_names_of_scenarios_are_unique() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
