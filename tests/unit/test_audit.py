"""What an audit does next, and its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from blockpair.audit.decide import Audit, Copies, End, Seen, Start, Step, Stop, Wait, refused, step
from blockpair.audit.lock import LASTS_SECONDS, Lock
from blockpair.audit.outcome import Code, Result, verdict
from blockpair.audit.standing import copies, obstacles
from blockpair.raid.model import Sync
from blockpair.status.engine import EngineStatus
from blockpair.status.report import KernelDeviceStatus, ResourceReport
from blockpair.verify.messages import VerifyReport
from blockpair.verify.record import Finding
from tests.unit.raid_samples import array
from tests.unit.status_samples import engine, peer, resync

MINE = Copies("a")


class World:
    """Resources, a clock, and an audit of node a over them."""

    def __init__(self, *, deadline: float | None = None, **resources: Copies) -> None:
        self.resources = resources
        self.obstacles: list[str] = []
        self.now = 0.0
        self.audit = Audit("a", deadline, frozenset(resources))

    def step(self) -> Step:
        seen = Seen(self.resources, self.obstacles)
        self.audit, doing = step(self.audit, seen, self.now)
        match doing:
            case Start(name):
                self.change(name, running=True, ended=None)
            case Stop(name):
                self.change(name, running=False, ended="stopped")
        return doing

    def change(self, name: str, **how: Any) -> None:
        self.resources[name] = replace(self.resources[name], **how)

    def end(self, name: str, how: Any, at: int = 1000, **more: Any) -> None:
        self.change(name, running=False, ended=how, oldest=at, **more)

    @property
    def outcomes(self) -> dict[str, str]:
        return {result.name: result.outcome for result in self.audit.results}

    @property
    def code(self) -> Code:
        return verdict(self.audit.results)


def test_the_oldest_proof_comes_first_and_what_was_never_proved_before_all() -> None:
    world = World(r0=replace(MINE, oldest=300), r1=replace(MINE, oldest=100), r2=MINE, r3=MINE)
    begun = []
    while (doing := world.step()) != End():
        if isinstance(doing, Start):
            begun.append(doing.name)
            world.end(doing.name, "identical")
    assert begun == ["r2", "r3", "r1", "r0"]
    assert (set(world.outcomes.values()), world.code) == ({"identical"}, Code.IDENTICAL)


def test_one_after_the_other() -> None:
    world = World(r0=MINE, r1=MINE)
    assert world.step() == Start("r0")
    assert world.step() == Wait() == world.step()
    world.now = 7.0
    world.end("r0", "identical")
    assert world.step() == Start("r1")
    assert world.audit.results == (Result("r0", "identical", seconds=7.0),)


def test_when_the_time_is_over_it_stops_and_the_next_goes_on() -> None:
    world = World(deadline=60.0, r0=MINE, r1=MINE)
    world.step()
    world.now = 60.0
    assert world.step() == Stop("r0")
    assert world.step() == End()
    assert world.outcomes == {"r0": "unfinished", "r1": "unfinished"}
    assert world.code is Code.UNFINISHED
    assert world.audit.results[0].seconds == 60.0 and "goes on" in world.audit.results[0].why


def test_what_was_found_before_the_time_was_over_is_told_by_the_code() -> None:
    world = World(deadline=60.0, r0=MINE)
    world.step()
    world.change("r0", findings=1)
    world.now = 61.0
    world.step()
    assert (world.outcomes, world.code) == ({"r0": "unfinished"}, Code.DIFFERENCES)


def test_beside_a_resync_nothing_is_begun_and_what_runs_is_stopped_and_goes_on() -> None:
    world = World(r0=MINE)
    world.obstacles = ["r9 resyncs"]
    assert world.step() == Wait("r9 resyncs")
    world.obstacles = []
    assert world.step() == Start("r0")
    world.now = 10.0
    world.obstacles = ["an array is busy"]
    assert world.step() == Stop("r0")
    assert world.step() == Wait("an array is busy")
    world.obstacles = []
    world.now = 50.0
    assert world.step() == Start("r0")
    world.now = 55.0
    world.end("r0", "identical")
    assert world.step() == End()
    # It was compared for ten seconds, and then for five.
    assert world.audit.results == (Result("r0", "identical", seconds=15.0),)


def test_waiting_ends_with_the_time() -> None:
    world = World(deadline=5.0, r0=MINE)
    world.obstacles = ["an audit runs on b"]
    assert world.step() == Wait("an audit runs on b")
    world.now = 5.0
    assert world.step() == End()
    assert world.code is Code.UNFINISHED


@pytest.mark.parametrize(
    ("how", "outcome", "code"),
    [
        ("identical", "identical", Code.IDENTICAL),
        ("differences", "differences", Code.DIFFERENCES),
        ("stopped", "unfinished", Code.UNFINISHED),
        ("failed", "failed", Code.NOT_RUN),
        (None, "failed", Code.NOT_RUN),
    ],
)
def test_how_it_ends(how: str | None, outcome: str, code: Code) -> None:
    world = World(r0=MINE)
    world.step()
    world.end("r0", how, reason="so it is", findings=2 if how == "differences" else 0)
    assert world.step() == End()
    [result] = world.audit.results
    assert (result.outcome, result.why, world.code) == (outcome, "so it is", code)


def test_what_another_node_leads_is_left_to_it_and_changes_no_code() -> None:
    world = World(r0=Copies("b", problem="b is not connected", findings=3), r1=MINE)
    assert world.step() == Start("r1")
    world.end("r1", "identical")
    assert world.step() == End()
    assert world.outcomes == {"r0": "left", "r1": "identical"} and world.code is Code.IDENTICAL


def test_what_cannot_be_compared_fails_and_the_others_are_compared() -> None:
    world = World(r0=replace(MINE, problem="b is not connected"), r1=MINE, r2=MINE)
    assert world.step() == Start("r1")
    world.change("r1", problem="the copy here is Diskless")
    assert world.step() == Stop("r1")
    assert world.step() == Start("r2")
    world.audit = refused(world.audit, "r2", "it has no data yet")
    assert world.step() == End()
    assert set(world.outcomes.values()) == {"failed"} and world.code is Code.NOT_RUN
    assert [result.why for result in world.audit.results] == [
        "b is not connected",
        "the copy here is Diskless",
        "it has no data yet",
    ]


def test_a_comparison_by_command_is_waited_for() -> None:
    world = World(r0=replace(MINE, running=True))
    assert world.step() == Wait("r0 is being compared by command")
    world.end("r0", "identical")
    assert world.step() == Start("r0")


def test_a_resource_that_is_deleted_is_no_failure_before_it_began() -> None:
    world = World(r0=MINE, r1=MINE)
    del world.resources["r1"]
    assert world.step() == Start("r0")
    del world.resources["r0"]
    assert world.step() == End()
    assert world.outcomes == {"r0": "failed"}


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], Code.IDENTICAL),
        (["identical", "left"], Code.IDENTICAL),
        (["identical", "unfinished"], Code.UNFINISHED),
        (["failed", "unfinished"], Code.NOT_RUN),
        (["failed", "differences", "unfinished"], Code.DIFFERENCES),
    ],
)
def test_the_gravest_is_the_verdict(outcomes: list[Any], code: Code) -> None:
    assert verdict(Result(f"r{index}", outcome) for index, outcome in enumerate(outcomes)) is code


_EVENTS = st.lists(
    st.sampled_from(["tick", "end", "differ", "fail", "obstacle", "clear", "problem", "delete"]), max_size=60
)


@given(_EVENTS, st.integers(1, 4), st.booleans())
def test_an_audit_ends_compares_one_at_a_time_and_judges_each_once(
    events: list[str], count: int, bounded: bool
) -> None:
    world = World(deadline=20.0 if bounded else None, **{f"r{index}": MINE for index in range(count)})
    happens: dict[str, Callable[[str], None]] = {
        "end": lambda name: world.end(name, "identical"),
        "differ": lambda name: world.end(name, "differences", findings=1),
        "fail": lambda name: world.end(name, "failed", reason="so"),
        "problem": lambda name: world.change(name, problem="away"),
        "delete": world.resources.__delitem__,
    }
    ended = False
    # In the end nothing stands in the way, and whatever runs ends.
    for event in [*events, *["clear", "end"] * (2 * count + 2)]:
        world.now += 1.0
        if event == "obstacle":
            world.obstacles = ["busy"]
        elif event == "clear":
            world.obstacles = []
        elif event in happens and world.audit.current in world.resources:
            happens[event](str(world.audit.current))
        doing = world.step()
        running = [name for name, each in world.resources.items() if each.running]
        assert len(running) <= 1
        assert not (running and isinstance(doing, Wait) and doing.why)
        ended = ended or doing == End()
        if ended:
            assert doing == End() and not running
    assert ended
    names = [result.name for result in world.audit.results]
    assert len(names) == len(set(names)) and set(world.resources) <= set(names)


def test_a_lock_is_of_one_audit_and_ends_with_it() -> None:
    now = 0.0
    lock = Lock(lambda: now)
    assert lock.claim("a", "1") is None
    assert lock.claim("b", "2") == "a" == lock.claim("a", "3")
    now = LASTS_SECONDS - 1
    assert lock.claim("a", "1") is None
    now = 2 * LASTS_SECONDS - 2
    assert lock.claim("b", "2") == "a"
    now = 2 * LASTS_SECONDS - 1
    assert lock.claim("b", "2") is None
    lock.release("a", "1")
    assert lock.claim("a", "1") == "b"
    lock.release("b", "2")
    assert lock.claim("a", "1") is None


def resource(state: EngineStatus | None, name: str = "r0") -> ResourceReport:
    """A resource whose engine says this; None: it is down."""
    device = KernelDeviceStatus(attached=False)
    how: Any = "down" if state is None else "running"
    return ResourceReport(name, how, None, True, "/dev/x", "internal", [], None, device, state, [], [])


@pytest.mark.parametrize(
    ("state", "leader", "problem"),
    [
        (engine(), "a", None),
        (engine(role="Secondary"), "a", None),
        (engine(peer(name="a"), node="b", role="Secondary"), "a", None),
        (engine(peer(role="Primary"), role="Secondary"), "b", None),
        (engine(peer(connection="Connecting", role=None)), "a", "b is not connected"),
        (engine(peer(disk="Outdated")), "a", "the copy on b is Outdated"),
        (engine(disk="Diskless"), "a", "the copy here is Diskless"),
        (engine(peer(replication="Paused")), "a", "its replication with b is Paused"),
        (engine(peer(replication="SyncSource", resync=resync(), disk="Inconsistent")), "a", None),
        (None, "a", "it is down: blockpair up r0"),
    ],
)
def test_who_compares_a_resource_and_whether_it_can_be(
    state: EngineStatus | None, leader: str, problem: str | None
) -> None:
    node = "a" if state is None else state.node
    found = copies(node, resource(state), None)
    assert (found.leader, found.problem, found.oldest, found.running) == (leader, problem, None, False)


def test_what_comparing_has_shown() -> None:
    open_one = Finding(0, 4096, "1", "2", 5)
    settled = replace_struct(open_one, offset=4096, state="waived")
    report = VerifyReport("r0", 3, 1, [7, 5, 9], [open_one, settled], True, 1, 3, None, None)
    found = copies("a", resource(engine()), report)
    assert (found.oldest, found.running, found.findings) == (5, True, 1)
    part = replace_struct(report, proved=[7, None, 9], running=False, ended="failed", reason="why")
    found = copies("a", resource(engine()), part)
    assert (found.oldest, found.ended, found.reason) == (None, "failed", "why")


def test_what_keeps_audits_waiting() -> None:
    syncing = engine(peer(replication="SyncSource", resync=resync()))
    assert list(obstacles("a", [resource(engine()), resource(None)], [array()])) == []
    assert list(obstacles("a", [resource(syncing)], [])) == ["r0 resyncs between a and b"]
    busy = array(sync=Sync("check", 1, 2, 3))
    assert list(obstacles("a", [], [busy])) == ["the array data on a is busy: check"]
