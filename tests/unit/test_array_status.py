"""What the daemon says of the arrays below its resources: in the status, and as events."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
from structlog.testing import capture_logs

from blockpair.config.locations import locations
from blockpair.config.node import NodeConfig, read_node
from blockpair.config.resource import ResourceConfig, read_resource
from blockpair.daemon import arrays as eye
from blockpair.daemon.arrays import Arrays, kind_of
from blockpair.events.catalogue import KINDS
from blockpair.raid import devices
from blockpair.raid.events import Event, Severity
from blockpair.raid.health import Health, Reason
from blockpair.raid.model import Array, Sync
from blockpair.raid.rules import Rules
from blockpair.raid.standing import Standing, with_tally
from blockpair.raid.turn import Turn
from blockpair.raid.vote import Tally
from blockpair.status.arrays import advice_on_arrays
from blockpair.status.report import Advice
from tests.unit.raid_samples import FAULTY, GIB, SPARE, array, member

RAID = Path(__file__).parents[2] / "blockpair/raid"
WHOLE = array()
FAILED = replace(WHOLE, members=(*WHOLE.members[:2], member("sdc", None, FAULTY), WHOLE.members[3]))
FILLS = replace(FAILED, members=(*FAILED.members, member("sdx", 2, SPARE)), sync=Sync("recover", 0, GIB, GIB))
LOST = replace(FAILED, members=FAILED.members[:3], name="logs", uuid="uuid-logs")
ILL = Health(40, (Reason("pending", "3 sectors on probation", 60, ""),))


def _codes(known: Array, health: dict[str, Health] | None = None) -> list[tuple[str, str]]:
    return [(one.severity, one.code) for one in advice_on_arrays([known], health or {}, {})]


def test_what_is_said_of_an_array_in_each_state() -> None:
    assert _codes(WHOLE) == _codes(WHOLE, {"sda": Health(41)}) == []
    assert _codes(LOST) == [("critical", "array-failed")]
    assert _codes(FAILED) == [("warning", "array-degraded"), ("warning", "array-member-failed")]
    assert _codes(WHOLE, {"sda": ILL}) == [("warning", "array-member-ill")]
    degraded, failed = advice_on_arrays([FILLS], {}, {})
    assert degraded.text == (
        "the array data below it lacks a member: 1.0 s to full redundancy; "
        "survives any one more failure except sdd"
    )
    assert degraded.remedy.startswith("it heals by itself")
    assert "spare remove data sdc" in failed.remedy
    (needs, _) = advice_on_arrays([FAILED], {}, {})
    assert "spare add data" in needs.remedy
    (ill,) = advice_on_arrays([WHOLE], {"sda": ILL}, {})
    differs = replace(WHOLE, mismatch_bytes=4096)
    standing = Standing(4096)
    (waits,) = advice_on_arrays([differs], {}, {WHOLE.uuid: standing})
    assert waits.code == "array-copies-differ" and "by itself" in waits.remedy
    left = with_tally(standing, Tally(undecided=4096), ended=True)
    (differ,) = advice_on_arrays([differs], {}, {WHOLE.uuid: left})
    assert "no two copies agree" in differ.text and "blockpair verify" in differ.remedy
    healed = with_tally(standing, Tally(healed=4096), ended=True)
    # Healed, or of a scrub before the last one.
    assert not list(advice_on_arrays([differs], {}, {WHOLE.uuid: healed}))
    assert not list(advice_on_arrays([WHOLE], {}, {WHOLE.uuid: left}))
    assert "sda" in ill.text and "3 sectors on probation" in ill.text and "replace data sda" in ill.remedy


def _codes_in(file: Path) -> set[str]:
    """The codes of events that a module makes: what stands third in an event, or second in one's helper."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            subject, _, what = node.value.partition(".")
            if subject in SUBJECTS and what and " " not in what:
                found.add(node.value)
    return found


SUBJECTS = ("array", "copies", "member", "spare", "scrub", "resync", "reshape", "sync", "watch")


def test_every_event_of_an_array_is_a_kind_of_the_stream() -> None:
    found = {code for file in RAID.glob("*.py") for code in _codes_in(file)}
    assert {"member.failed", "spare.adopted", "scrub.not-begun", "sync.held-back", "watch.problem"} <= found
    told = {kind_of(code) for code in found} | {
        f"raid.{what}-{when}" for what in ("resync", "reshape") for when in ("started", "ended")
    }
    assert told | {"raid.failed", "raid.vote-failed"} == {kind for kind in KINDS if kind.startswith("raid.")}


class Played:
    """A watch that tells of an array, and then waits for its end."""

    all_told = Flag()

    def __init__(self, rules: Rules, **more: Any) -> None:
        self.rules, self.more = rules, more
        self.health: dict[str, Health] = {}
        self.arrays = {FILLS.uuid: FILLS}
        self.over = Flag()

    def end(self) -> None:
        self.over.set()

    def events(self) -> Iterator[Event]:
        yield Event(
            "data", FILLS.uuid, "member.failed", Severity.CRITICAL, "sdc failed", "sdx took over", "sdc"
        )
        yield Event("", "", "watch.problem", Severity.WARNING, "no mdadm", "install it")
        self.all_told.set()
        assert self.over.wait(10)


@pytest.fixture
def resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResourceConfig:
    """r0, whose device is on md127."""
    monkeypatch.setattr(eye, "Watch", Played)
    monkeypatch.setattr(Played, "all_told", Flag())
    monkeypatch.setattr(eye, "Turn", lambda: Turn(tmp_path / "lock"))
    below = {Path("/dev/x"): frozenset({"md127"}), Path("/dev/y"): frozenset[str]()}
    for module in (eye, devices):
        monkeypatch.setattr(module, "arrays_below", below.__getitem__)
    file = locations(directory=str(tmp_path)).resource_file("r0")
    file.parent.mkdir(parents=True)
    peer = '[[peer]]\nname = "b"\naddress = "127.0.0.1:9"\n'
    file.write_text(f'device = "/dev/x"\nmetadata = "/dev/y"\n{peer}')
    return read_resource(file, "a")


def _arrays(tmp_path: Path, text: str) -> Arrays:
    places = locations(directory=str(tmp_path))
    places.node_file.parent.mkdir(parents=True, exist_ok=True)
    places.node_file.write_text(f'[node]\nname = "a"\n[raid]\n{text}')

    async def syncs() -> bool:
        return True

    return Arrays(read_node(places.node_file), places, syncs)


def test_the_daemon_tells_of_the_arrays_and_says_what_they_mean_for_a_resource(
    tmp_path: Path, resource: ResourceConfig
) -> None:
    made = _arrays(tmp_path, 'watch = "on"\nscrub_days = 30\n')

    async def live() -> list[Advice]:
        running = asyncio.create_task(made.run())
        assert await asyncio.to_thread(Played.all_told.wait, 10)
        found = await made.advice(resource)
        other = await made.advice(replace(resource, device=Path("/dev/y")))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return found + other

    with capture_logs() as told:
        advice = asyncio.run(live())
    assert [one.code for one in advice] == ["array-degraded", "array-member-failed"]
    failed, problem = told
    assert (failed["event"], failed["log_level"], failed["resource"]) == ("raid.member-failed", "error", "r0")
    assert failed["text"] == "sdc failed; sdx took over" and failed["device"] == "sdc"
    assert failed["remedy"] == "blockpair raid status data"
    assert (problem["event"], problem["log_level"]) == ("raid.watch-problem", "warning")
    assert "resource" not in problem and "array" not in problem
    assert not [thread for thread in threading.enumerate() if thread.name == "bp-raid"]


def test_a_node_with_a_directory_of_its_own_leaves_the_machines_arrays_alone(tmp_path: Path) -> None:
    made = _arrays(tmp_path, "")
    asyncio.run(made.run())
    assert not made.watching and made.known is None and made.health == {}
    assert Arrays(made_node(tmp_path), locations({}), none).watching
    assert not _arrays(tmp_path, 'watch = "off"').watching


class Scrubbed(Played):
    """A watch of an array that is scrubbed three times: in doubt, clean, and with differences."""

    def events(self) -> Iterator[Event]:
        def event(code: str) -> Event:
            return Event("data", WHOLE.uuid, code, Severity.INFO, "", "")

        self.arrays = {WHOLE.uuid: WHOLE}
        yield from map(event, ("member.read-errors", "scrub.ended", "scrub.ended"))
        self.arrays = {WHOLE.uuid: replace(WHOLE, mismatch_bytes=512)}
        yield event("scrub.ended")
        self.all_told.set()
        assert self.over.wait(10)


def play(made: Arrays) -> None:
    """Have it run until its watch has told all."""

    async def live() -> None:
        running = asyncio.create_task(made.run())
        assert await asyncio.to_thread(Played.all_told.wait, 10)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(live())


class Wanting:
    """Has nothing decided, and remembers what was to be."""

    def __init__(self) -> None:
        self.mismatches: list[int] = []

    def want(self, array: Array) -> None:
        self.mismatches.append(array.mismatch_bytes)

    async def run(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("heal", "wanted"), [("on", [0, 512]), ("off", [])])
def test_after_a_scrub_with_doubts_the_peer_is_to_decide(
    tmp_path: Path, resource: ResourceConfig, monkeypatch: pytest.MonkeyPatch, heal: str, wanted: list[int]
) -> None:
    monkeypatch.setattr(eye, "Watch", Scrubbed)
    made = _arrays(tmp_path, f'watch = "on"\nheal = "{heal}"\n')
    voting: Any = Wanting()
    made.voting = voting

    play(made)
    assert voting.mismatches == wanted


def made_node(tmp_path: Path) -> NodeConfig:
    return read_node(locations(directory=str(tmp_path)).node_file)


async def none() -> bool:
    return False


def test_a_watch_that_breaks_is_told_and_begun_again(
    tmp_path: Path, resource: ResourceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _arrays(tmp_path, 'watch = "on"\n')
    monkeypatch.setattr(eye, "_REST_SECONDS", 0.01)
    watches: list[Played] = []

    def broken(rules: Rules, **more: Any) -> Played:
        watches.append(Played(rules, **more))
        if len(watches) == 1:
            raise ValueError("a bug")
        return watches[-1]

    monkeypatch.setattr(eye, "Watch", broken)

    with capture_logs() as told:
        play(made)
    assert [one["event"] for one in told[:2]] == ["raid.failed", "raid.member-failed"]
