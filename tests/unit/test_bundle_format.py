"""docs/reference/bundles.md describes the file that the engine reads: what is written by its numbers is a
bundle, and beyond its limits none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockpair import bundles
from blockpair.errors import BlockpairError
from tests.bundle_file import BLOCK, bundle_bytes, described, facts_of

FORM = described()
DEVICE = 64 << 20
RUNS = [(1, b"x" * BLOCK), (3, b"y" * 2 * BLOCK), (9, bytes(BLOCK))]


def accepted(
    folder: Path, facts: dict[str, Any] | None = None, runs: list[tuple[int, bytes]] | None = None
) -> bool:
    """Whether the engine takes it for a bundle, all of whose blocks are as they were."""
    runs = RUNS if runs is None else runs
    file = folder / "x.bpb"
    file.write_bytes(bundle_bytes(facts_of(DEVICE, runs) if facts is None else facts, runs))
    try:
        found = bundles.read(file, verify=True)
    except BlockpairError:
        return False
    assert found.facts.blocks == sum(len(data) for _, data in runs) // BLOCK
    return True


def test_what_is_written_by_the_page_is_a_bundle(tmp_path: Path) -> None:
    assert accepted(tmp_path) and accepted(tmp_path, runs=[])


def test_the_sums_of_the_page_s_widths_are_its_totals() -> None:
    assert sum(width for _, width in FORM.index) == FORM.entry_width
    assert FORM.number_width * 3 == FORM.numbers_width


def test_the_facts_are_the_page_s_and_each_is_needed(tmp_path: Path) -> None:
    assert FORM.facts == bundles.Facts.__struct_fields__
    for name in FORM.facts:
        facts = facts_of(DEVICE, RUNS)
        del facts[name]
        assert not accepted(tmp_path, facts), name


def test_facts_are_as_long_as_the_page_says_at_most(tmp_path: Path) -> None:
    for length, fits in ((FORM.facts_most, True), (FORM.facts_most + 1, False)):
        facts = facts_of(DEVICE, RUNS)
        facts["why"] += "!" * (length - len(json.dumps(facts)))
        assert accepted(tmp_path, facts) is fits


def test_a_chunk_has_as_many_blocks_as_the_page_says_at_most(tmp_path: Path) -> None:
    assert accepted(tmp_path, runs=[(0, b"z" * FORM.chunk_most)])
    assert not accepted(tmp_path, runs=[(0, b"z" * (FORM.chunk_most + BLOCK))])


@pytest.mark.parametrize("runs", [RUNS[::-1], [RUNS[1], (4, RUNS[0][1])]], ids=["falling", "twice"])
def test_chunks_are_in_rising_order(tmp_path: Path, runs: list[tuple[int, bytes]]) -> None:
    assert not accepted(tmp_path, runs=runs)
