"""The plan of a promotion and of its mirror, run on a machine that only remembers: nothing that fails, and no
kill between or within steps, leaves an address without the mount or a mount without being Primary (I9).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockpair.config.service import Service
from blockpair.errors import BlockpairError
from blockpair.failover.executor import Executor, Result, StepEvent, StepFailed
from blockpair.failover.journal import Journal
from blockpair.failover.plan import (
    Action,
    FileSystemState,
    MountState,
    Role,
    State,
    Verb,
    Watchdog,
    Wish,
    describe,
    plan,
)
from blockpair.failover.progress import Mark, Outcome, Record
from tests.unit.failover_world import FULL, Killed, World

VIPS = {str(vip) for vip in FULL.vips}
# A journal is written a few hundred times a run.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
UP = State(
    role=Role.PRIMARY,
    has_epoch=True,
    watchdog=Watchdog.ARMED,
    file_system=FileSystemState.JOURNAL,
    mount=MountState.MOUNTED,
    units=frozenset(FULL.units),
    vips=frozenset(VIPS),
)


def serving(**changes: object) -> World:
    """A world in which the whole service runs."""
    return World(
        FULL,
        **{
            "primary": True,
            "has_epoch": True,
            "armed": True,
            "mounted": True,
            "clean": True,
            "units": set(FULL.units),
            "vips": set(VIPS),
            "checked": True,
            "probed": True,
            **changes,
        },  # type: ignore[arg-type]
    )


def run(world: World, journal: Path, wish: Wish, *, kill_users: bool = False) -> Result:
    """Carry out a wish in one life."""
    return asyncio.run(Executor(world.service, world, Journal(journal)).run(wish, kill_users=kill_users))


def names(state: State, wish: Wish) -> list[str]:
    """The steps that are left to do, by name."""
    return [step.name for step in plan(FULL, state, wish) if not step.satisfied and step.do]


def test_up_in_order_and_down_in_its_mirror() -> None:
    assert names(State(watchdog=Watchdog.DISARMED), Wish.PROMOTE) == [
        "epoch",
        "watchdog",
        "promote",
        "fsck",
        "mount",
        "unit db.service",
        "unit web.service",
        "health",
        "probe",
        "vip 192.0.2.10/24@eth0",
        "vip 2001:db8::10/64@eth0",
        "announce",
    ]
    assert names(UP, Wish.HAND_OVER) == [
        "vip 2001:db8::10/64@eth0",
        "vip 192.0.2.10/24@eth0",
        "unit web.service",
        "unit db.service",
        "mount",
        "promote",
        "watchdog",
        "epoch",
    ]
    assert names(UP, Wish.DEMOTE) == names(UP, Wish.HAND_OVER)[:-1]
    assert names(State(watchdog=Watchdog.DISARMED, has_epoch=True), Wish.TAKE_OVER)[0] == "watchdog"


def test_who_is_primary_already_takes_no_role_and_stops_without(tmp_path: Path) -> None:
    here = State(role=Role.PRIMARY, has_epoch=True, watchdog=Watchdog.ARMED)
    assert names(here, Wish.FOLLOW) == names(here, Wish.PROMOTE)
    assert names(State(watchdog=Watchdog.DISARMED), Wish.FOLLOW)[0] == "role"
    assert not {"epoch", "watchdog", "promote"} & set(names(State(), Wish.FOLLOW))
    world = World(FULL, has_epoch=True)
    result = run(world, tmp_path / "j", Wish.FOLLOW)
    assert (result.outcome, result.step) == (Outcome.UNDONE, "role") and world.down()
    world.primary = world.armed = True
    assert run(world, tmp_path / "j", Wish.FOLLOW).outcome is Outcome.DONE and world.up()


def test_every_step_is_told_in_words_has_a_time_out_and_a_check() -> None:
    for wish in Wish:
        for state in (State(watchdog=Watchdog.DISARMED), UP):
            for step in plan(FULL, state, wish, kill_users=True):
                assert step.check
                for rung in (*step.do, *step.undo):
                    assert describe(rung.action, FULL) and rung.timeout > 0


def test_a_file_system_is_checked_only_where_it_may_need_it() -> None:
    for state, wanted in (
        (FileSystemState.CLEAN, False),
        (FileSystemState.JOURNAL, False),
        (FileSystemState.UNCLEAN, True),
        (FileSystemState.UNKNOWN, True),
    ):
        assert ("fsck" in names(State(file_system=state), Wish.PROMOTE)) is wanted


def test_an_address_left_without_the_mount_goes_first() -> None:
    state = State(role=Role.PRIMARY, vips=frozenset({"192.0.2.10/24@eth0"}))
    left = names(state, Wish.PROMOTE)
    assert left[0] == "stale 192.0.2.10/24@eth0" and "vip 192.0.2.10/24@eth0" in left


def test_a_mount_of_an_earlier_time_as_primary_goes_with_its_units_and_comes_anew() -> None:
    state = dataclasses.replace(UP, mount=MountState.STALE)
    left = names(state, Wish.FOLLOW)
    assert left[:5] == [
        "stale 192.0.2.10/24@eth0",
        "stale 2001:db8::10/64@eth0",
        "stale unit web.service",
        "stale unit db.service",
        "stale mount",
    ]
    assert [name for name in left[5:] if name.startswith(("mount", "unit"))] == [
        "mount",
        "unit db.service",
        "unit web.service",
    ]
    # Its ladder has nothing that would fail the device that is to be mounted.
    ladder = next(step for step in plan(FULL, state, Wish.FOLLOW) if step.name == "stale mount").do
    assert Verb.UNMOUNT_ERRORS not in [rung.action.verb for rung in ladder]
    for wish in (Wish.DEMOTE, Wish.STOP):
        assert "mount" in names(state, wish)


def test_who_holds_the_mount_is_killed_only_when_it_was_asked_for_and_never_unmounted_lazily() -> None:
    def rungs(wish: Wish, *, kill_users: bool = False) -> list[Verb]:
        step = next(s for s in plan(FULL, UP, wish, kill_users=kill_users) if s.name == "mount")
        return [rung.action.verb for rung in step.do]

    assert rungs(Wish.DEMOTE) == [Verb.UNMOUNT]
    assert rungs(Wish.DEMOTE, kill_users=True) == [Verb.UNMOUNT, Verb.UNMOUNT_TERM, Verb.UNMOUNT_KILL]
    assert rungs(Wish.STOP) == [
        Verb.UNMOUNT,
        Verb.UNMOUNT_TERM,
        Verb.UNMOUNT_KILL,
        Verb.UNMOUNT_SHUTDOWN,
        Verb.UNMOUNT_ERRORS,
        Verb.FENCE_SELF,
    ]
    assert not any("lazy" in verb for verb in Verb)


@pytest.mark.parametrize("wish", [Wish.DEMOTE, Wish.HAND_OVER, Wish.STOP])
def test_a_unit_is_stopped_on_the_way_down_also_where_it_is_not_active_yet(wish: Wish) -> None:
    left = names(State(role=Role.PRIMARY, mount=MountState.MOUNTED), wish)
    assert [name for name in left if name.startswith("unit ")] == ["unit web.service", "unit db.service"]


def test_only_who_stops_everything_goes_on_without_seeing_and_without_a_journal(tmp_path: Path) -> None:
    class Blind(World):
        async def observe(self) -> State:
            return dataclasses.replace(UP, role=(await super().observe()).role, unseen=("no systemd",))

    world = Blind(FULL, mounted=True, units=set(FULL.units))
    for wish in set(Wish) - {Wish.STOP}:
        with pytest.raises(BlockpairError, match="cannot be seen: no systemd"):
            run(world, tmp_path / "j", wish)
    assert not world.actions
    (tmp_path / "file").touch()
    with pytest.raises(BlockpairError, match="cannot be read"):
        run(World(FULL), tmp_path / "file" / "j", Wish.PROMOTE)
    assert run(world, tmp_path / "file" / "j", Wish.STOP).outcome is Outcome.DONE
    assert world.down()


def test_a_line_that_is_half_written_is_no_end_of_the_journal(tmp_path: Path) -> None:
    file = tmp_path / "j"
    Journal(file).begin([Record(Mark.BEGIN, Wish.PROMOTE), Record(Mark.OWED, "mount")])
    with file.open("ab") as stream:
        stream.write(b'["started","mou')
    world = World(FULL)
    result = asyncio.run(Executor(FULL, world, Journal(file)).resume())
    assert result is not None and result.outcome is Outcome.DONE and world.up()
    assert Journal(file).read()[-1].mark is Mark.END


def test_a_held_mount_stops_a_demotion_names_who_holds_it_and_brings_the_service_back(tmp_path: Path) -> None:
    world = serving(holders={"polite"})
    result = run(world, tmp_path / "j", Wish.DEMOTE)
    assert (result.outcome, result.step) == (Outcome.UNDONE, "mount")
    assert "in use by polite" in result.why
    assert world.up()
    # And with leave to kill, it goes.
    assert run(world, tmp_path / "j", Wish.DEMOTE, kill_users=True).outcome is Outcome.DONE
    assert world.down()


@pytest.mark.parametrize("who", ["polite", "stubborn", "hung", "stuck"])
def test_a_node_that_may_not_write_climbs_the_ladder(tmp_path: Path, who: str) -> None:
    world = serving(primary=False, has_epoch=False, holders={who})
    assert run(world, tmp_path / "j", Wish.STOP).outcome is Outcome.DONE
    assert world.down() and not world.reset


def test_the_ladder_ends_in_a_fence(tmp_path: Path) -> None:
    world = serving(primary=False, holders={"eternal"})
    run(world, tmp_path / "j", Wish.STOP)
    assert world.reset and not world.vips


def test_without_a_watchdog_it_ends_stuck_without_an_address(tmp_path: Path) -> None:
    world = serving(holders={"eternal"})

    class Unwatched(World):
        async def observe(self) -> State:
            from dataclasses import replace

            return replace(await super().observe(), watchdog=Watchdog.NONE)

    world.__class__ = Unwatched
    result = run(world, tmp_path / "j", Wish.STOP)
    assert (result.outcome, result.step) == (Outcome.STUCK, "mount")
    assert not world.vips and world.mounted and world.primary


def test_a_unit_that_cannot_be_stopped_does_not_keep_a_node_from_stopping(tmp_path: Path) -> None:
    def never(action: Action, moment: str) -> None:
        if action.verb in (Verb.STOP_UNIT, Verb.KILL_UNIT) and moment == "before":
            raise StepFailed("it hangs")

    world = serving(trouble=never)
    assert run(world, tmp_path / "j", Wish.STOP).outcome is Outcome.DONE
    assert world.down()


def test_events_have_durations_and_the_problems_of_every_rung(tmp_path: Path) -> None:
    told: list[StepEvent] = []
    world = serving(holders={"stubborn"})
    executor = Executor(FULL, world, Journal(tmp_path / "j"), tell=told.append)
    result = asyncio.run(executor.run(Wish.DEMOTE, kill_users=True))
    assert list(result.steps) == told and all(event.seconds >= 0 for event in told)
    mount = next(event for event in told if event.step == "mount")
    assert mount.succeeded and len(mount.problems) == 2 and "SIGKILL" in mount.what


def test_a_step_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    class Slow(World):
        async def perform(self, action: Action) -> None:
            if action.verb is Verb.START_UNIT:
                await asyncio.Event().wait()
            await super().perform(action)

    from dataclasses import replace

    service = replace(FULL, timeouts=replace(FULL.timeouts, start=0.02))
    world = Slow(service)
    result = run(world, tmp_path / "j", Wish.PROMOTE)
    assert (result.outcome, result.step) == (Outcome.UNDONE, "unit db.service")
    assert "not done after 0.02 s" in result.why and world.down()


def test_a_journal_survives_and_a_torn_line_was_never_acted_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run/j")
    assert journal.read() == []
    journal.begin([Record(Mark.BEGIN, "promote")])
    journal.append(Record(Mark.STARTED, "mount", "é\n"))
    whole = (tmp_path / "run/j").read_bytes()
    (tmp_path / "run/j").write_bytes(whole + b'["done","mo')
    assert [record.mark for record in journal.read()] == [Mark.BEGIN, Mark.STARTED]
    (tmp_path / "run/j").write_bytes(b"junk\n")
    with pytest.raises(BlockpairError, match="no record"):
        journal.read()


def test_an_unfinished_run_comes_first_unless_the_node_must_stop(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.begin([Record(Mark.BEGIN, "promote")])
    executor = Executor(FULL, World(FULL), journal)
    with pytest.raises(BlockpairError, match="interrupted"):
        asyncio.run(executor.run(Wish.DEMOTE))
    assert asyncio.run(executor.run(Wish.STOP)).outcome is Outcome.DONE
    assert asyncio.run(executor.resume()) is None


def test_a_stop_cuts_in_on_a_promotion_that_hangs(tmp_path: Path) -> None:
    class Hanging(World):
        reached: asyncio.Event

        async def perform(self, action: Action) -> None:
            if action == Action(Verb.START_UNIT, "web.service"):
                self.reached.set()
                await asyncio.Event().wait()
            await super().perform(action)

    async def scene() -> None:
        world = Hanging(FULL)
        world.reached = asyncio.Event()
        executor = Executor(FULL, world, Journal(tmp_path / "j"))
        promotion = asyncio.create_task(executor.run(Wish.PROMOTE))
        await world.reached.wait()
        assert world.mounted and world.units == {"db.service"}
        promotion.cancel()
        with pytest.raises(asyncio.CancelledError):
            await promotion
        assert (await executor.run(Wish.STOP)).outcome is Outcome.DONE
        assert world.down() and executor.unfinished() is None

    asyncio.run(scene())


class Fate:
    """What happens at each moment: by position, a failure or a kill. After a kill the guard drops the
    addresses.
    """

    def __init__(self, world: World, faults: dict[int, str], *, superseded: bool = False) -> None:
        self.moment = 0
        self.faults = faults
        self.world = world
        self.superseded = superseded

    def __call__(self, action: Action, moment: str) -> None:
        self.world.check(superseded=self.superseded)
        self.tick(action.verb)

    def tick(self, verb: Verb | None) -> None:
        """A moment passes."""
        fault = self.faults.get(self.moment)
        self.moment += 1
        if fault == "kill":
            raise Killed
        if fault == "fail" and verb is not None:
            raise StepFailed("so it is written")


class KillableJournal(Journal):
    """Dies before or after a record is durable."""

    def __init__(self, file: Path, fate: Fate) -> None:
        super().__init__(file)
        self._fate = fate

    def begin(self, records: Sequence[Record]) -> None:
        self._fate.tick(None)
        super().begin(records)
        self._fate.tick(None)

    def append(self, record: Record) -> None:
        self._fate.tick(None)
        super().append(record)
        self._fate.tick(None)


def live(service: Service, world: World, journal: Path, fate: Fate, wish: Wish, *, guard: bool) -> bool:
    """Lives, one after the other, until the wish has come to an end. Whether the guard had the last word: the
    process was killed between the end and telling of it.
    """
    last_word = False
    while True:
        executor = Executor(service, world, KillableJournal(journal, fate))
        try:
            records = Journal(journal).read()
            if not records or records[0].subject != wish:
                asyncio.run(executor.run(wish))
            elif records[-1].mark is not Mark.END:
                asyncio.run(executor.resume())
            return last_word
        except Killed:
            # Before it began, the addresses were no business of this run.
            if guard and any(record.subject == wish for record in Journal(journal).read()[:1]):
                world.vips.clear()
                last_word = _outcome(journal) is not None
            world.check(superseded=fate.superseded)


@pytest.mark.parametrize("fault", ["kill", "fail"])
@pytest.mark.parametrize("wish", [Wish.PROMOTE, Wish.DEMOTE, Wish.HAND_OVER, Wish.TAKE_OVER])
def test_at_every_single_moment(wish: Wish, fault: str) -> None:
    """One kill changes nothing about the end; one failure, and all is as it was before."""
    moment, reached = 0, True
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        while reached:
            upward = wish in (Wish.PROMOTE, Wish.TAKE_OVER)
            world = World(FULL, has_epoch=wish is Wish.TAKE_OVER) if upward else serving()
            fate = Fate(world, {moment: fault})
            world.trouble = fate
            journal = Path(directory) / f"j{moment}"
            last_word = live(FULL, world, journal, fate, wish, guard=True)
            world.check()
            outcome = _outcome(journal)
            reached = fate.moment > moment
            failed = outcome is Outcome.UNDONE
            assert outcome is Outcome.DONE or (failed and fault == "fail")
            if upward is not failed:
                assert world.up() or (last_word and not world.vips)
            else:
                assert world.down()
            moment += 1
    assert moment > 40


faults = st.dictionaries(st.integers(0, 90), st.sampled_from(["kill", "kill", "fail"]), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults=faults, guard=st.booleans(), started=st.integers(0, 12))
def test_a_promotion_that_is_killed_anywhere_and_fails_anywhere_ends_up_or_down(
    faults: dict[int, str], guard: bool, started: int
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        world = World(FULL)
        fate = Fate(world, faults)
        world.trouble = fate
        last_word = live(FULL, world, Path(directory) / "j", fate, Wish.PROMOTE, guard=guard)
        outcome = _outcome(Path(directory) / "j")
        world.check()
        if outcome is Outcome.DONE:
            assert world.up() or (last_word and not world.vips)
        elif outcome is Outcome.UNDONE:
            assert world.down()
        else:
            # An undo failed on every rung: what is below it stays as it is.
            assert outcome is Outcome.STUCK


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults=faults, guard=st.booleans(), wish=st.sampled_from([Wish.DEMOTE, Wish.HAND_OVER]))
def test_a_demotion_that_is_killed_anywhere_and_fails_anywhere_ends_down_or_up(
    faults: dict[int, str], guard: bool, wish: Wish
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        world = serving()
        fate = Fate(world, faults)
        world.trouble = fate
        last_word = live(FULL, world, Path(directory) / "j", fate, wish, guard=guard)
        outcome = _outcome(Path(directory) / "j")
        world.check()
        if outcome is Outcome.DONE:
            assert world.down() and world.has_epoch == (wish is Wish.DEMOTE)
        elif outcome is Outcome.UNDONE:
            assert world.up() or (last_word and not world.vips)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=faults,
    second=st.dictionaries(st.integers(0, 60), st.just("kill"), max_size=4),
    wish=st.sampled_from([Wish.PROMOTE, Wish.DEMOTE, Wish.HAND_OVER]),
)
def test_from_wherever_a_run_was_left_a_node_that_loses_its_right_stops(
    first: dict[int, str], second: dict[int, str], wish: Wish
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        journal = Path(directory) / "j"
        world = World(FULL) if wish is Wish.PROMOTE else serving()
        fate = Fate(world, first)
        world.trouble = fate
        with contextlib.suppress(Killed):
            asyncio.run(Executor(FULL, world, KillableJournal(journal, fate)).run(wish))
        world.primary = world.has_epoch = False
        began = len(world.actions)
        fate = Fate(world, second, superseded=True)
        world.trouble = fate
        live(FULL, world, journal, fate, Wish.STOP, guard=False)
        assert world.down()
        # The addresses were the first to go.
        verbs = [action.verb for action in world.actions[began:]]
        last = max((i for i, verb in enumerate(verbs) if verb is Verb.WITHDRAW), default=-1)
        assert all(verb is Verb.WITHDRAW for verb in verbs[: last + 1])


def _outcome(journal: Path) -> Outcome | None:
    records = Journal(journal).read()
    return Outcome(records[-1].subject) if records and records[-1].mark is Mark.END else None
