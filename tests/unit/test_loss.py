"""What a split brain's side would lose, from its metadata."""

from __future__ import annotations

from typing import Any

import pytest

from blockpair.cli.resolve_text import loss_lines
from blockpair.status.loss import Loss, loss


def dump(*, full_sync: bool = False, truncated: bool = False) -> dict[str, Any]:
    return {
        "data_size_bytes": 100 * 1024,
        "block_size_bytes": 4096,
        "extent_size_bytes": 16384,
        "intent_runs": [[0, 1], [6, 1]],
        "truncated": truncated,
        "peers": [{"name": "b", "full_sync": full_sync, "dirty_runs": [[2, 3], [10, 1]]}],
    }


def test_blocks_and_extents_are_counted_once() -> None:
    found, ranges = loss(dump(), "b")
    # Extent 0 holds blocks 0 to 3, of which 2 and 3 are changed; extent 6 is cut off by the device's end.
    assert ranges == [(0, 20480), (40960, 4096), (98304, 4096)]
    assert found == Loss("b", 2, 4, 16384, 8192 + 4096, whole=False, complete=True)


def test_without_marks_it_is_everything() -> None:
    found, ranges = loss(dump(full_sync=True), "b")
    assert found.whole and found.changed_bytes == 100 * 1024 and ranges == [(0, 100 * 1024)]


def test_a_list_that_is_cut_off_says_so_and_a_stranger_has_no_loss() -> None:
    assert not loss(dump(truncated=True), "b")[0].complete
    with pytest.raises(KeyError):
        loss(dump(), "c")


def test_for_a_person() -> None:
    answer = {
        "name": "r0",
        "node": "a",
        "loss": {
            "peer": "b",
            "extents": 2,
            "changed_blocks": 4,
            "changed_bytes": 16384,
            "possible_bytes": 0,
            "whole": False,
            "complete": True,
        },
        "files": {
            "file_system": "ext4",
            "paths": ["/x"],
            "other_blocks": 3,
            "complete": True,
            "problem": None,
        },
    }
    text = "\n".join(loss_lines(answer))
    assert "4 blocks, 16 KiB, in 2 places" in text and "    /x" in text and "3 blocks of no file" in text
