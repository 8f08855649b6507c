"""Blocks of a device, by their numbers."""

from __future__ import annotations

from collections.abc import Iterable


def runs_of(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Blocks in rising order as runs: the first of each, and how many."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs
