"""A comparison that was asked for goes on until its end, over restarts and lost connections, and is kept."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from blockpair.blocks import runs_of
from blockpair.bridge import Shown
from blockpair.cli.status_text import verify_line
from blockpair.cli.verify import byte_range, exit_code
from blockpair.cli.verify_progress import follow
from blockpair.cli.verify_text import lines, overwritten
from blockpair.daemon.verifying import Verifying, report_of
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.advice import advice
from blockpair.status.engine import EngineStatus
from blockpair.status.report import KernelDeviceStatus, ResourceReport
from blockpair.verify import store
from tests.unit.status_samples import engine, peer

MIB = 1 << 20
SIZE = 1 << 30


class Node:
    """A daemon's part over an engine that does what the test says."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.shown: list[Shown] = []
        self.notes: list[tuple[str, str]] = []
        self.refusal: BlockpairError | None = None
        self.now = 1000.0
        self.status = engine()
        self.begin()

    def begin(self) -> None:
        """The daemon starts, again."""
        self.verifying = Verifying(
            "r0",
            self.file,
            self._call,
            self._take,
            lambda severity, kind, text: self.notes.append((kind, text)),
            clock=lambda: self.now,
            wall=lambda: 1_800_000_000 + self.now,
        )
        self.keep()

    async def _call(self, command: str, **arguments: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append((command, arguments))

    def _take(self) -> list[Shown]:
        shown, self.shown = self.shown, []
        return shown

    def show(self, *shown: Shown) -> None:
        """The engine has shown this, and the daemon looked."""
        self.shown += shown
        self.verifying.look()

    def keep(self) -> None:
        """The daemon looks after it, a while later."""
        self.now += 10
        asyncio.run(self.verifying.keep(self.status))

    def start(self, **asked: int | None) -> None:
        given = {"offset": None, "length": None, "max_rate": None} | asked
        asyncio.run(self.verifying.start(self.status, **given))

    def asked(self) -> list[tuple[int, int]]:
        """What the engine was to compare."""
        return [(given["offset"], given["length"]) for name, given in self.calls if name == "verify"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "r0.json")


def proved(offset: int, length: int) -> Shown:
    return Shown("proved", offset, length)


def found(offset: int) -> Shown:
    return Shown("found", offset, 4096, own="1" * 32, peer="2" * 32)


ENDED = Shown("ended")


def test_a_run_ends_identical_and_is_kept(node: Node) -> None:
    node.start()
    node.show(proved(0, SIZE), ENDED)
    node.keep()
    report = node.verifying.report()
    assert (report.running, report.ended, report.done_bytes) == (False, "identical", SIZE)
    assert [kind for kind, _ in node.notes] == ["verify.started", "verify.finished"]
    saved = store.load(node.file)
    assert saved is not None and all(saved.proved)
    told = node.verifying.status()
    assert told is not None
    assert (
        verify_line(told, 1_800_000_000 + node.now).plain == "proved identical 10 s ago (100 %), 0 findings"
    )
    assert exit_code(report, asked=True) == 0


def test_a_restart_in_the_middle_repeats_one_region_at_most(node: Node) -> None:
    node.start()
    node.show(proved(0, 100 * MIB + 4096))
    node.keep()
    node.begin()
    assert node.asked() == [(0, SIZE), (100 * MIB, SIZE - 100 * MIB)]
    node.show(proved(100 * MIB, SIZE - 100 * MIB), ENDED)
    assert node.verifying.report().ended == "identical"


def test_a_lost_connection_is_waited_out(node: Node) -> None:
    node.start()
    node.show(proved(0, 5 * MIB), Shown("ended", why="the connection was lost", passing=True))
    node.refusal = BlockpairError(ErrorKind.FAILED, "b is not connected")
    node.keep()
    report = node.verifying.report()
    assert (report.running, report.reason) == (True, "b is not connected")
    assert exit_code(report, asked=True) == 4
    node.refusal = None
    node.keep()
    node.keep()
    assert node.asked() == [(0, SIZE), (5 * MIB, SIZE - 5 * MIB)]
    assert node.verifying.report().reason is None


def test_the_other_node_is_primary_now_and_goes_on_itself(node: Node) -> None:
    node.start()
    node.show(Shown("ended", why="b is Primary", passing=True))
    node.status = engine(peer(role="Primary"), role="Secondary")
    node.keep()
    report = node.verifying.report()
    assert (report.ended, report.reason) == ("stopped", "b is Primary now: go on there")


def test_what_cannot_pass_by_itself_has_failed(node: Node) -> None:
    node.start()
    node.show(Shown("ended", why="b cannot read 4096 bytes at 8192"))
    node.keep()
    report = node.verifying.report()
    assert (report.ended, exit_code(report, asked=True)) == ("failed", 1)
    assert node.notes[-1][0] == "verify.failed"
    assert len(node.asked()) == 1


def test_the_whole_device_goes_round_its_end(node: Node) -> None:
    node.start()
    node.show(proved(0, SIZE), ENDED)
    node.now += 10
    # By whole blocks, whatever was asked.
    node.start(offset=5, length=2 * MIB - 10)
    assert node.asked()[-1] == (0, 2 * MIB)
    node.show(proved(0, 2 * MIB), ENDED)
    node.calls.clear()
    node.start()
    assert node.asked() == [(2 * MIB, SIZE - 2 * MIB)]
    node.show(proved(2 * MIB, SIZE - 2 * MIB), ENDED)
    assert node.verifying.report().running
    node.keep()
    assert node.asked()[1:] == [(0, 2 * MIB)]
    node.show(proved(0, 2 * MIB), ENDED)
    assert node.verifying.report().ended == "identical"


def test_a_finding_is_told_and_makes_the_status_degraded(node: Node) -> None:
    node.start()
    node.show(proved(0, 8192), found(8192), proved(12288, SIZE - 12288), ENDED)
    node.keep()
    report = node.verifying.report()
    assert (report.ended, exit_code(report, asked=True)) == ("differences", 3)
    assert {"verify.found", "verify.finished"} <= {kind for kind, _ in node.notes}
    told = node.verifying.status()
    assert told is not None
    assert (told.findings, told.first_finding) == (1, 8192)
    assert verify_line(told, 0).plain == "differences in 1 block"
    entries = advice("r0", "running", None, engine(), verify=told)
    assert [(entry.severity, entry.code) for entry in entries] == [("warning", "findings")]
    assert "blockpair verify r0 --repair" in entries[0].remedy
    assert any("4 KiB at byte 8192: found" in line for line in lines(report, 1_800_000_000 + node.now))


def test_a_repair_overwrites_what_was_shown_and_nothing_else(node: Node) -> None:
    node.start()
    node.show(proved(0, 4096), found(4096), found(8192), proved(12288, MIB - 12288), found(MIB))
    node.show(proved(MIB + 4096, SIZE - MIB - 4096), ENDED)
    with pytest.raises(BlockpairError, match="no open finding"):
        asyncio.run(node.verifying.repair(node.status, [4096, 12288]))
    assert "repair" not in [name for name, _ in node.calls]
    node.shown = [proved(4096, 8192)]
    assert asyncio.run(node.verifying.repair(node.status, [4096, 8192])) == 2
    assert node.calls[-1] == ("repair", {"runs": [(1, 2)]})
    assert [finding.state for finding in node.verifying.report().findings] == [
        "repaired",
        "repaired",
        "found",
    ]


def test_what_is_waived_troubles_nobody(node: Node) -> None:
    node.start()
    node.show(found(4096))
    assert asyncio.run(node.verifying.waive([4096])) == 1
    told = node.verifying.status()
    assert told is not None and told.findings == 0
    saved = store.load(node.file)
    assert saved is not None and saved.findings[0].state == "waived"


def test_stopped_it_stays_so_and_the_next_goes_on_there(node: Node) -> None:
    node.start()
    node.show(proved(0, 7 * MIB))
    asyncio.run(node.verifying.stop())
    # The engine's own word of it may come late: it is not the end of the next one.
    node.shown = [Shown("ended", why="stopped")]
    node.keep()
    assert node.verifying.report().ended == "stopped"
    node.start()
    assert node.verifying.report().running
    assert node.asked()[-1] == (7 * MIB, SIZE - 7 * MIB)


def test_one_at_a_time_and_only_what_there_is(node: Node) -> None:
    for wrong in ({"offset": SIZE}, {"offset": -1}, {"length": 0}, {"max_rate": 0}):
        with pytest.raises(BlockpairError) as refused:
            node.start(**wrong)
        assert refused.value.kind is ErrorKind.USAGE
    node.refusal = BlockpairError(ErrorKind.FAILED, "b is not connected")
    with pytest.raises(BlockpairError, match="not connected"):
        node.start()
    assert not node.verifying.report().running
    node.refusal = None
    node.start()
    with pytest.raises(BlockpairError) as refused:
        node.start()
    assert refused.value.kind is ErrorKind.BUSY
    with pytest.raises(BlockpairError):
        asyncio.run(node.verifying.repair(node.status, [0]))


def test_on_the_secondary_it_is_refused_with_the_command_for_the_primary(node: Node) -> None:
    node.status = engine(peer(role="Primary"), role="Secondary")
    with pytest.raises(BlockpairError) as refused:
        node.start(offset=MIB, length=2 * MIB, max_rate=7)
    assert refused.value.message.startswith("b is Primary")
    assert refused.value.remedy == ("on b: blockpair verify r0 --wait --range 1048576-3145728 --max-rate 7")
    assert node.asked() == [] and not node.verifying.report().running
    # Where nobody is, either may.
    node.status = engine(peer(role="Secondary"), role="Secondary")
    node.start()
    assert node.asked() == [(0, SIZE)]


def test_the_record_of_other_data_says_nothing(node: Node) -> None:
    node.start()
    node.show(proved(0, SIZE), found(0), ENDED)
    node.status = engine(resource_id="f" * 32)
    node.keep()
    assert node.verifying.status() is None


def test_a_damaged_record_is_named_and_stops_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "r0.json"
    file.write_text("{")
    node = Node(file)
    node.show(found(0))
    node.keep()
    with pytest.raises(BlockpairError) as refused:
        node.start()
    assert (refused.value.kind, str(file) in refused.value.message) == (ErrorKind.DAMAGED, True)
    assert file.read_text() == "{"
    file.unlink()
    node.keep()
    assert [finding.offset for finding in node.verifying.report().findings] == [0]


def test_blocks_become_runs() -> None:
    assert runs_of([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 1), (9, 2)]


def resource(status: EngineStatus) -> ResourceReport:
    return ResourceReport(
        name="r0",
        state="running",
        failure=None,
        healthy=True,
        device="/dev/x",
        metadata="internal",
        peers=[],
        nbd_socket=None,
        kernel_device=KernelDeviceStatus(attached=False),
        engine=status,
        advice=[],
        events=[],
    )


def test_whose_copy_wins_is_said_before_and_refused_where_nobody_can_say(node: Node) -> None:
    node.start()
    node.show(found(4096), found(8192))
    report = node.verifying.report()
    question = overwritten(resource(engine()), report)
    assert "2 blocks (8 KiB) of b are overwritten with those of a" in question
    assert "Primary" in question and "bundle" in question
    for role, theirs, remedy in (
        ("Secondary", "Primary", "on b: blockpair verify r0 --repair"),
        ("Secondary", "Secondary", "blockpair promote r0"),
    ):
        with pytest.raises(BlockpairError) as refused:
            overwritten(resource(engine(peer(role=theirs), role=role)), report)
        assert refused.value.kind is ErrorKind.UNSAFE
        assert remedy in refused.value.remedy


class Terminal(io.StringIO):
    """A screen, as far as a program can tell."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("screen", [Terminal(), io.StringIO()])
def test_who_follows_it_sees_how_far_it_is(
    node: Node, monkeypatch: pytest.MonkeyPatch, screen: io.StringIO
) -> None:
    node.start()
    reports = []
    for part in range(4):
        node.show(proved(part * SIZE // 4, SIZE // 4))
        reports.append(node.verifying.report())
    node.show(ENDED)
    reports.append(node.verifying.report())
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    seconds = itertools.count()
    last, in_time = follow(iter(reports).__next__, None, 0, lambda: float(next(seconds)))
    assert in_time and last.ended == "identical"
    told = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    if screen.isatty():
        assert "━" in told and "100.0 %  1 GiB of 1 GiB  256 MiB/s" in told
    else:
        assert "r0: comparing, 25.0 % of 1 GiB" in told and "━" not in told


def test_a_range_is_two_sizes() -> None:
    assert byte_range("1G-2G") == (1 << 30, 1 << 30)
    assert byte_range("0-4K") == (0, 4096)
    for wrong in ("1G", "2G-1G", "1G-", "x-y", "-"):
        with pytest.raises(BlockpairError):
            byte_range(wrong)


def test_a_range_that_is_the_same_says_nothing_of_a_difference_elsewhere(node: Node) -> None:
    node.start()
    node.show(found(0), proved(4096, SIZE - 4096), ENDED)
    node.start(offset=MIB, length=MIB)
    node.show(proved(MIB, MIB), ENDED)
    report = node.verifying.report()
    assert report.ended == "identical"
    assert (exit_code(report, asked=True), exit_code(report, asked=False)) == (0, 3)


def test_a_record_is_told_without_an_engine(node: Node) -> None:
    node.start()
    node.show(found(4096), ENDED)
    node.keep()
    saved = store.load(node.file)
    assert saved is not None
    assert report_of("r0", saved).findings == node.verifying.report().findings
