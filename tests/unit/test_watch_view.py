"""The live screen, as it is drawn into windows of several sizes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from msgspec.structs import replace as changed
from rich.cells import cell_len
from rich.console import Console

from blockpair.cli.watch_view import Look, View, diagram
from blockpair.raid.model import Array
from blockpair.status.report import ResourceReport, VerifyStatus
from tests.unit.raid_samples import FAULTY, array, member
from tests.unit.status_samples import engine, peer
from tests.unit.test_metrics import report
from tests.unit.watch_samples import looks, picture

PICTURE = Path(__file__).parents[2] / "docs/images/status-watch.svg"
BEFORE, NOW = looks()


def drawn(view: View, width: int = 96, height: int | None = None) -> list[str]:
    """The lines on a screen of that size."""
    console = Console(record=True, width=width, height=height or 200, file=io.StringIO(), color_system=None)
    console.print(view, height=height)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_both_nodes_what_they_do_and_what_is_to_be_done_are_on_it() -> None:
    text = "\n".join(drawn(View(NOW, BEFORE)))
    for words in (
        "node alpha",
        "needs attention",
        "mail  Primary  UpToDate",
        "peer beta    Connected  SyncSource  Secondary  Inconsistent",
        "epoch 4, Primary alpha, in sync alpha",
        "behind     9 GiB, for 7m 51s",
        "37.4 %",
        "88 MiB/s, 1m 34s left",
        "next: it goes on by itself",
        "[sda = sdb] [sdc = sde (rebuilding)]",
        "08:14:02 mail peer.lost  connection to beta ended",
    ):
        assert words in text, words
    [writes] = [line.split() for line in text.splitlines() if line.lstrip().startswith("writes")]
    assert writes == ["writes", "2,104", "8", "MiB", "112", "µs", "457", "µs"]


def test_before_the_second_look_no_rate_is_invented() -> None:
    [writes] = [line.split() for line in drawn(View(NOW)) if line.lstrip().startswith("writes")]
    assert writes == ["writes"]


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_no_line_is_wider_than_the_window(width: int) -> None:
    lines = drawn(View(NOW, BEFORE), width)
    assert max(map(cell_len, lines)) <= width


def test_a_narrow_window_keeps_the_latencies_and_drops_the_bytes() -> None:
    lines = drawn(View(NOW, BEFORE), 44)
    [writes] = [line.split() for line in lines if line.lstrip().startswith("writes")]
    assert writes == ["writes", "2,104", "112", "µs", "457", "µs"]


def test_a_low_window_loses_events_first_the_oldest_of_them_first_and_then_says_what_it_lacks() -> None:
    whole = drawn(View(NOW, BEFORE))
    body = next(index for index, line in enumerate(whole) if line.startswith("last events"))
    assert drawn(View(NOW, BEFORE), height=len(whole)) == whole
    two = drawn(View(NOW, BEFORE), height=body + 3)
    assert two == [*whole[: body + 1], *whole[-2:]]
    assert drawn(View(NOW, BEFORE), height=body + 1)[:body] == whole[:body]
    low = drawn(View(NOW, BEFORE), height=10)
    assert low[:9] == whole[:9] and low[9].startswith(f"… {body - 9} lines more")


def test_what_is_old_is_said_to_be() -> None:
    text = "\n".join(drawn(View(NOW, BEFORE, trouble="the daemon does not answer")))
    assert "no news: the daemon does not answer" in text and "mail  Primary" in text


def with_resource(resource: ResourceReport) -> View:
    """The screen with that one alone."""
    told = report()
    return View(Look(changed(told, resources=[resource]), 1.0))


def test_a_secondary_has_no_traffic_of_its_own_and_what_is_down_has_none_at_all() -> None:
    secondary = changed(report(engine(peer(role="Primary"), role="Secondary")).resources[0], advice=[])
    down = report(None).resources[0]
    for resource, words in ((secondary, "Secondary"), (down, "down")):
        text = "\n".join(drawn(with_resource(resource)))
        assert words in text and "writes" not in text and "behind" not in text


def test_what_both_copies_were_proved_to_be_is_told() -> None:
    proved = VerifyStatus(
        running=False,
        done_bytes=1 << 30,
        total_bytes=1 << 30,
        ended="identical",
        reason=None,
        ended_at=1767225600 - 3600,
        proved_share=1.0,
        oldest_proof_at=1767225600 - 3600,
        findings=0,
        first_finding=None,
    )
    lines = drawn(with_resource(changed(report(engine()).resources[0], verify=proved)))
    [line] = [line for line in lines if line.lstrip().startswith("verify")]
    assert "1h 00m ago" in line


def test_a_node_without_resources_says_how_to_make_one() -> None:
    text = "\n".join(drawn(View(Look(changed(report(), resources=[]), 1.0))))
    assert "blockpair create --help" in text


def test_a_lag_whose_beginning_nobody_knows_is_told_as_such() -> None:
    for lag, words in (
        ({"seconds": None, "bytes": 8192}, "8 KiB, since before this daemon"),
        ({"seconds": 0.0, "bytes": 0}, "nothing"),
    ):
        status = engine(peer(lag=lag))
        lines = drawn(View(Look(report(status), 1.0)))
        assert [line for line in lines if "behind" in line and words in line], words


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (array(), "[sda = sdb] [sdc = sdd]"),
        (array(level="raid1", members="ab"), "[sda = sdb]"),
        # Each member shares with two others: no pairs.
        (array(layout="f2"), "[sda sdb sdc sdd]"),
        (array(level="raid5", members="abc"), "[sda sdb sdc]"),
        (
            array(members=(member("sda", 0), member("sdb", None, FAULTY), member("sde", None)), slots=2),
            "[sda = missing]  spare sde  faulty sdb",
        ),
        (
            array(
                members=(
                    member("sda", 0, frozenset({"in_sync", "want_replacement"})),
                    member("sdx", 0, frozenset({"replacement", "spare"})),
                    member("sdb", 1),
                ),
                slots=2,
            ),
            "[sda > sdx = sdb]",
        ),
    ],
)
def test_a_diagram_shows_who_has_the_same_data(made: Array, words: str) -> None:
    assert diagram(made).plain.startswith(words), diagram(made).plain


def test_the_picture_in_the_book_is_what_is_drawn() -> None:
    assert PICTURE.read_text() == picture() + "\n", (
        f"python -m tests.unit.watch_samples > docs/images/{PICTURE.name}"
    )
