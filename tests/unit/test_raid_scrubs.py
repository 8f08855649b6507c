"""When an array is scrubbed by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid import scrubber
from blockpair.raid.memory import Memory
from blockpair.raid.model import Array, Sync
from blockpair.raid.rules import Rules
from blockpair.raid.scrubber import Scrubber
from blockpair.raid.scrubs import due, scrubbed
from tests.unit.raid_samples import FAULTY, array, member

DAY = 24 * 3600.0
RULES = Rules(scrub_seconds=30 * DAY)
DATA, LOGS = array(), array("logs", "ef", level="raid1")
CHECKS = replace(DATA, sync=Sync("check", 0, 1, 1))
FAILED = replace(DATA, members=(*DATA.members[:3], member("sdd", None, FAULTY)))


def _due(*arrays: Array, rules: Rules = RULES, hour: int = 3, **days: float) -> str | None:
    """The array that is due, each scrubbed so many days ago."""
    now = 1000 * DAY
    last = {f"uuid-{name}": now - ago * DAY for name, ago in days.items()}
    found = due(arrays, last, rules, now, hour)
    return None if found is None else found.name


def test_the_one_that_waits_longest_is_next() -> None:
    assert _due(DATA, LOGS, data=31, logs=40) == "logs"
    assert _due(DATA, LOGS, data=31, logs=10) == "data"
    assert _due(DATA, LOGS, data=29, logs=10) is None
    assert _due(DATA) is None
    assert _due(DATA, rules=Rules(), data=400) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(LOGS, sync=Sync("recover", 0, 1, 1)),
        replace(LOGS, sync=Sync("resync", 0, 1, 1)),
        replace(LOGS, sync=Sync("check", 0, 1, 1)),
    ],
)
def test_never_beside_a_sync_of_any_array(other: Array) -> None:
    assert _due(DATA, other, data=400, logs=1) is None


@pytest.mark.parametrize(
    "unfit",
    [
        FAILED,
        replace(DATA, members=DATA.members[:3]),
        replace(DATA, state="read-auto"),
        replace(DATA, unequal=True),
        array(level="raid0"),
    ],
)
def test_never_one_that_is_not_whole_or_not_in_use(unfit: Array) -> None:
    assert _due(unfit, data=400) is None


@pytest.mark.parametrize(
    ("hours", "within"),
    [((1, 5), range(1, 5)), ((22, 6), [*range(6), 22, 23]), ((0, 24), range(24))],
)
def test_only_in_its_hours(hours: tuple[int, int], within: Sequence[int]) -> None:
    rules = replace(RULES, scrub_hours=hours)
    assert [hour for hour in range(24) if _due(DATA, rules=rules, hour=hour, data=400)] == list(within)


def test_one_that_was_cut_off_by_a_failure_is_none() -> None:
    before, whole, failed = ({known.uuid: known} for known in (CHECKS, DATA, FAILED))
    assert scrubbed(before, whole) == [DATA.uuid]
    assert scrubbed(before, failed) == scrubbed(whole, whole) == scrubbed(before, before) == []


@dataclass
class Played:
    """A scrubber, its time in days, and what it began."""

    file: Path
    day: float = 1000.0
    busy: bool = False
    fails: bool = False
    begun: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.scrubber = Scrubber(RULES, Memory(self.file), lambda: self.busy, lambda: self.day * DAY)

    def look(self, before: Array, after: Array, days: float = 1.0) -> None:
        self.day += days
        found = self.scrubber.look({before.uuid: before}, {after.uuid: after})
        self.told += [event.code for event in found]

    def carry_out(self, steps: list[object]) -> None:
        if self.fails:
            raise BlockpairError(ErrorKind.IO, "no", "")
        self.begun.append(f"day {self.day:g}")


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    made = Played(tmp_path / "scrubs.json")
    monkeypatch.setattr(scrubber, "carry_out", made.carry_out)
    return made


def test_it_is_remembered_over_restarts_and_a_persons_scrub_counts(played: Played) -> None:
    played.look(DATA, DATA)
    for _ in range(20):
        played.look(DATA, DATA)
    played.restart()
    for _ in range(10):
        played.look(DATA, DATA)
    assert played.begun == ["day 1031"]
    # Somebody else's ends in between.
    for _ in range(20):
        played.look(DATA, DATA)
    played.look(CHECKS, DATA)
    for _ in range(31):
        played.look(DATA, DATA)
    assert played.begun == ["day 1031", "day 1082"]


def test_it_waits_for_a_resync_of_a_resource_and_is_repeated_where_it_was_cut_off(played: Played) -> None:
    played.look(DATA, DATA)
    played.busy = True
    played.look(DATA, DATA, 40)
    assert played.begun == []
    played.busy = False
    played.look(DATA, DATA, 0)
    played.look(DATA, CHECKS, 0.01)
    played.look(CHECKS, FAILED, 0.01)
    played.look(FAILED, DATA, 0.01)
    assert len(played.begun) == 2


def test_one_that_cannot_begin_is_told_and_tried_again(played: Played) -> None:
    played.look(DATA, DATA)
    played.fails = True
    played.look(DATA, DATA, 40)
    played.look(DATA, DATA, 0.01)
    assert played.told == ["scrub.not-begun"]
    played.fails = False
    played.look(DATA, DATA, 1)
    assert len(played.begun) == 1
