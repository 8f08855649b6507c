"""What a split brain's side would lose, from its metadata."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blockpair.cli.resolve_text import loss_lines
from blockpair.status.loss import (
    REPORT_MAX,
    BothLosses,
    FileList,
    Loss,
    Marks,
    SideLoss,
    decode_report,
    encode_report,
    live_loss,
    loss,
)


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


def test_a_running_engine_knows_it_by_block() -> None:
    marks = Marks(100 * 1024, 4096, 3, False, 1, 2, [(2, 3), (20, 5)])
    # Five blocks more are suspect, with the device's last, which is as long as the others.
    assert live_loss(marks, "b") == (
        Loss("b", 2, 3, 3 * 4096, 5 * 4096, whole=False, complete=True),
        [(8192, 3 * 4096), (20 * 4096, 5 * 4096)],
    )
    whole = live_loss(msgspec.structs.replace(marks, full_sync=True, runs=[]), "b")
    assert whole is not None and whole[0].whole and whole[1] == [(0, 100 * 1024)]
    assert live_loss(msgspec.structs.replace(marks, runs=None), "b") is None


def test_without_marks_it_is_everything() -> None:
    found, ranges = loss(dump(full_sync=True), "b")
    assert found.whole and found.changed_bytes == 100 * 1024 and ranges == [(0, 100 * 1024)]


def test_a_list_that_is_cut_off_says_so_and_a_stranger_has_no_loss() -> None:
    assert not loss(dump(truncated=True), "b")[0].complete
    with pytest.raises(KeyError):
        loss(dump(), "c")


def files(*paths: str) -> FileList:
    return FileList("ext4", paths, other_blocks=3)


def side(node: str, peer: str, listed: FileList) -> SideLoss:
    return SideLoss(
        node,
        None,
        Loss(peer, 2, 4, 16384, 0, whole=False, complete=True),
        listed,
        1_700_000_000,
        1_700_000_100,
    )


def test_for_a_person() -> None:
    both = BothLosses("r0", (side("a", "b", files("/x", "/\x1b[2J")), SideLoss("b", "it is down")), None)
    text = "\n".join(loss_lines(both))
    assert (
        "4 blocks, 16 KiB, in 2 places" in text
        and "    /x\n" in text
        and "3 blocks of the file system that belong to no file" in text
    )
    assert "since 2023-11-14T22:13:20Z" in text and "2023-11-14T22:15:00Z" in text
    assert "what b would lose is not known: it is down" in text
    assert "\x1b" not in text


def test_what_was_not_looked_up_is_told() -> None:
    listed = FileList("ext4", ("/x",), other_blocks=1, complete=False, unseen_bytes=240 << 20)
    one = SideLoss("a", None, Loss("b", 1, 1, 4096, 0, whole=False, complete=True), listed)
    text = "\n".join(loss_lines(BothLosses("r0", (one, SideLoss("b", "down")), None)))
    assert "1 that may have changed (ext4), as far as they were looked up" in text
    assert "not looked up: what else changed, 240 MiB; any file may be there" in text
    assert "1 block, 4 KiB, in 1 place\n" in text and "and 1 block of" in text


def test_a_report_fits_the_protocol_however_many_files_there_are() -> None:
    few = side("a", "b", files("/x"))
    assert decode_report(encode_report(few), "a") == few
    many = side("a", "b", files(*(f"/{'ä' * 100}{number}" for number in range(1000))))
    text = encode_report(many)
    assert len(text.encode()) <= REPORT_MAX
    cut = decode_report(text, "a").files
    assert cut is not None and 0 < len(cut.paths) < 1000 and not cut.complete
    long = side("a", "b", FileList(problem="x" * REPORT_MAX))
    assert decode_report(encode_report(long), "a").problem is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"node": 1}',
        '{"node": "c", "loss": {"extents": "x"}}',
        '{"x": ' + "[" * (REPORT_MAX - 6),
    ],
)
def test_nonsense_from_a_peer_is_a_problem_of_that_peer(text: str) -> None:
    found = decode_report(text, "b")
    assert found.node == "b" and found.problem is not None and "not understood" in found.problem


def test_a_peer_speaks_for_itself_only() -> None:
    assert decode_report(encode_report(SideLoss("a")), "b").node == "b"
