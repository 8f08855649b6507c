"""What the watch tells and does, look after look; the system that it looks at is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid import devices, foresight, healer, mdadm, scrubber, sysfs, watch
from blockpair.raid.events import Event
from blockpair.raid.heal import MOST_RETURNS
from blockpair.raid.latency import Ticks
from blockpair.raid.mdadm import Superblock
from blockpair.raid.model import Array, Disk, Sync
from blockpair.raid.rules import Rules
from blockpair.raid.smart import Smart
from blockpair.raid.steps import Step
from blockpair.raid.turn import Turn
from tests.unit.raid_samples import FAULTY, GIB, SPARE, array, disk, member

WHOLE = replace(array(), bitmap=True)
AWAY = replace(WHOLE, members=tuple(entry for entry in WHOLE.members if entry.device != "sdc"))
TROUBLE = BlockpairError(ErrorKind.FAILED, "no mdadm", "install it")


@dataclass
class Played:
    """Looks that the watch takes, each with the devices that came before it; and what it did."""

    looks: Sequence[tuple[set[str], list[Array] | BlockpairError]]
    fails: bool = False
    clock: float = 0.0
    at: int = -1
    done: list[str] = field(default_factory=list)

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def wait(self, seconds: float) -> set[str]:
        if self.at + 1 >= len(self.looks):
            raise KeyboardInterrupt
        self.clock += seconds
        return self.looks[self.at + 1][0]

    def arrays(self) -> dict[str, Array]:
        self.at += 1
        now = self.looks[self.at][1]
        if isinstance(now, BlockpairError):
            raise now
        return {known.uuid: known for known in now}

    def carry_out(self, steps: Sequence[Step]) -> None:
        self.done += [step.shown for step in steps]
        if self.fails:
            raise TROUBLE


Play = Callable[..., tuple[Played, list[Event]]]
_T = TypeVar("_T")


def at_once(work: Callable[[], _T]) -> Future[_T]:
    """Instead of a thread."""
    future: Future[_T] = Future()
    future.set_result(work())
    return future


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Have a watch take looks; the last of them ends it."""

    def played(
        *looks: tuple[set[str], list[Array] | BlockpairError],
        heal: bool = False,
        fails: bool = False,
        smart: dict[str, Smart] | Callable[[set[str]], dict[str, Smart]] | None = None,
        ticks: Callable[[str, int], Ticks] | None = None,
        rules: Rules | None = None,
        may_heal: Callable[[], bool] = lambda: True,
    ) -> tuple[Played, list[Event]]:
        system = Played(looks, fails)
        monkeypatch.setattr(watch, "Hints", lambda: system)
        monkeypatch.setattr(watch, "Inventory", lambda: system)
        monkeypatch.setattr(healer, "carry_out", system.carry_out)
        monkeypatch.setattr(scrubber, "carry_out", system.carry_out)
        monkeypatch.setattr(foresight, "_smart_of", smart if callable(smart) else lambda _: smart or {})
        monkeypatch.setattr(foresight, "beside", at_once)
        monkeypatch.setattr(sysfs, "ticks", lambda device: ticks(device, system.at) if ticks else None)
        monkeypatch.setattr(sysfs, "idle_devices", lambda: ["sdc", "sdz"])
        monkeypatch.setattr(
            mdadm, "examine", lambda path: Superblock("UUID-data", "data", 1) if path == "/dev/sdc" else None
        )
        told: list[Event] = []
        try:
            rules = rules or Rules(heal=heal)
            watching = watch.Watch(rules, clock=lambda: system.clock, may_heal=may_heal)
            for event in islice(watching.events(), 1000):
                told.append(event)
        except KeyboardInterrupt:
            pass
        return system, told

    return played


def _codes(told: list[Event]) -> list[str]:
    return [event.code for event in told]


def test_what_is_there_is_told_once_and_then_what_changes(play: Play) -> None:
    _, told = play((set(), [WHOLE]), (set(), [WHOLE]), (set(), [AWAY]), (set(), [AWAY]))
    assert _codes(told) == ["array.found", "member.gone"]


def test_a_problem_is_told_once_until_it_is_another(play: Play) -> None:
    other = BlockpairError(ErrorKind.FAILED, "other", "")
    looks = [TROUBLE, TROUBLE, other, [WHOLE], TROUBLE]
    _, told = play(*((set(), look) for look in looks))
    assert _codes(told) == ["watch.problem", "watch.problem", "array.found", "watch.problem"]


def test_a_member_that_is_plugged_in_comes_back(play: Play) -> None:
    system, told = play((set(), [WHOLE]), (set(), [AWAY]), ({"sdc"}, [AWAY]), (set(), [WHOLE]), heal=True)
    assert system.done == ["mdadm /dev/md/data --re-add /dev/sdc"]
    assert _codes(told) == ["array.found", "member.gone", "member.returns", "member.filled"]


def test_one_that_was_there_when_it_began_or_is_another_device_is_not_touched(play: Play) -> None:
    system, told = play((set(), [AWAY]), (set(), [AWAY]), ({"sdz"}, [AWAY]), heal=True)
    assert system.done == []
    assert _codes(told) == ["array.found", "member.returns"]
    assert told[-1].consequence == "to do: mdadm /dev/md/data --re-add /dev/sdc"


def test_without_heal_it_only_says_what_it_would_do(play: Play) -> None:
    system, told = play((set(), [WHOLE]), ({"sdc"}, [AWAY]), (set(), [AWAY]))
    assert system.done == [] and told[-1].consequence.startswith("to do: ")


def test_one_that_comes_and_goes_is_left_to_a_person(play: Play) -> None:
    cycles = [(set[str](), [WHOLE]), ({"sdc"}, [AWAY])] * (MOST_RETURNS + 1)
    system, told = play(*cycles, heal=True)
    assert len(system.done) == MOST_RETURNS
    assert told[-1].code == "member.flaps" and "readd data sdc" in told[-1].consequence


def test_what_failed_is_not_tried_again_at_once(play: Play) -> None:
    taker = replace(AWAY, group="pool")
    spare = member("sdg", None)
    giver = array("other", (member("sde", 0), member("sdf", 1), spare), level="raid1", slots=2)
    arrays = [taker, replace(giver, group="pool")]
    looks = [(set[str](), arrays)] * 40
    system, told = play(*looks, heal=True, fails=True)
    tries = [event for event in told if event.code == "spare.moved"]
    assert all(event.consequence == "failed: no mdadm" for event in tries)
    # Every 60 of the 78 seconds that the looks take.
    assert len(tries) == 2 and len(system.done) == 4


def test_a_member_likely_to_fail_is_told_and_replaced(play: Play) -> None:
    whole = replace(WHOLE, members=(*WHOLE.members, member("sdx", None)))
    smart = {"sdb": Smart("ATA", passed=True, offline_uncorrectable=3)}
    system, told = play((set(), [whole]), (set(), [whole]), smart=smart, heal=True)
    ill = next(event for event in told if event.code == "member.health")
    assert "is 40: 3 sectors that a scan could not read" in ill.cause
    assert ill.consequence == "replace it before it fails: blockpair raid replace data sdb"
    assert system.done[0] == "mdadm /dev/md/data --replace /dev/sdb --with /dev/sdx"
    assert sum(event.code == "member.health" for event in told) == 1


def test_a_member_that_becomes_slow_is_told(play: Play) -> None:
    def ticks(device: str, at: int) -> Ticks:
        return Ticks(at * 100, at * (2000 if device == "sdd" else 200))

    _, told = play(*[(set[str](), [WHOLE])] * 80, ticks=ticks)
    (slow,) = (event for event in told if event.code == "member.health")
    assert slow.device == "sdd" and "10.0 times as slow" in slow.cause
    assert slow.consequence == "it is watched"


FAILED = replace(
    WHOLE, members=(*WHOLE.members[:2], member("sdc", None, FAULTY), WHOLE.members[3], member("sdx", None))
)
WITH_SPARE = replace(WHOLE, members=(*WHOLE.members, member("sdx", None)))
FILLS = replace(
    FAILED,
    members=(*FAILED.members[:4], member("sdx", 2, SPARE)),
    sync=Sync("recover", GIB // 2, GIB, GIB // 120),
)


def test_a_failure_is_told_once_it_is_known_what_comes_of_it(play: Play) -> None:
    _, told = play((set(), [WITH_SPARE]), (set(), [FAILED]), (set(), [FAILED]), (set(), [FILLS]))
    assert [event.text for event in told[1:]] == [
        "sdc failed in data; spare sdx took over; 1m 00s to full redundancy; "
        "survives any one more failure except sdd"
    ]


def test_and_without_that_where_nothing_comes_of_it(play: Play) -> None:
    system, told = play(*[(set[str](), look) for look in ([WITH_SPARE], *[[FAILED]] * 20)])
    (failed,) = (event for event in told if event.code == "member.failed")
    assert "spare sdx is there and has not begun yet" in failed.consequence
    assert system.clock < 25


BLANK = disk("sdz")
BAY = Rules(adopt={"data": ("pci-*-phy4-*",)})


@pytest.fixture
def bay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the disks, sdz is at a place that a rule names."""
    places = {"sdz": ["pci-0000:03:00.0-sas-phy4-lun-0", "/dev/sdz"]}
    monkeypatch.setattr(sysfs, "places", lambda device: places.get(device, [f"/dev/{device}"]))
    monkeypatch.setattr(devices, "member_disk", disk)
    monkeypatch.setattr(devices, "look", lambda path, _: BLANK if path == "/dev/sdz" else disk("sdy"))


@pytest.mark.usefixtures("bay")
def test_a_blank_disk_becomes_a_spare_where_a_rule_says_so_and_nowhere_else(play: Play) -> None:
    system, told = play((set(), [WHOLE]), ({"sdy"}, [WHOLE]), ({"sdz"}, [WHOLE]), rules=BAY)
    assert system.done == ["mdadm /dev/md/data --add-spare /dev/sdz"]
    assert told[-1].code == "spare.adopted" and "by rule" in told[-1].cause
    for rules in (Rules(), Rules(adopt={"logs": ("*phy4*",)}), Rules(adopt={"data": ("*phy5*",)})):
        assert play((set(), [WHOLE]), ({"sdz"}, [WHOLE]), rules=rules)[0].done == []
    # There already when the watch began, it is perhaps there for something else.
    assert play((set(), [WHOLE]), (set(), [WHOLE]), rules=BAY)[0].done == []
    system, told = play((set(), [WHOLE]), ({"sdz"}, [WHOLE]), rules=replace(BAY, heal=False))
    assert system.done == [] and told[-1].consequence.startswith("to do: mdadm")


@pytest.mark.usefixtures("bay")
@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (replace(BLANK, signatures=("ext4",)), "it carries ext4"),
        (replace(BLANK, uses=("mounted on /srv",)), "it is mounted on /srv"),
        (replace(BLANK, size_bytes=GIB // 2), "1 GiB are needed"),
        (replace(BLANK, disks=frozenset({"sda"})), "physical disk sda"),
    ],
)
def test_a_disk_that_is_not_blank_or_does_not_fit_is_told_and_left_alone(
    play: Play, monkeypatch: pytest.MonkeyPatch, unfit: Disk, why: str
) -> None:
    monkeypatch.setattr(devices, "look", lambda *_: unfit)
    system, told = play((set(), [WHOLE]), ({"sdz"}, [WHOLE]), rules=BAY)
    assert system.done == [] and told[-1].code == "spare.refused" and why in told[-1].cause


def test_another_disk_of_the_same_name_is_asked_anew(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    def ask(members: set[str]) -> dict[str, Smart]:
        asked.append(members)
        return {"sdc": Smart("ATA", passed=True, pending=1)} if len(asked) == 1 else {}

    looks = [(set[str](), look) for look in ([WHOLE], [AWAY], [WHOLE], [WHOLE])]
    _, told = play(*looks, smart=ask)
    assert len(asked) == 2 and sum(event.code == "member.health" for event in told) == 1


def test_the_threshold_is_configured(play: Play) -> None:
    whole = replace(WHOLE, members=(*WHOLE.members, member("sdx", None)))
    smart = {"sdb": Smart("ATA", passed=True, pending=3)}
    for replace_at, done in ((40, False), (60, True), (0, False)):
        system, _ = play((set(), [whole]), (set(), [whole]), smart=smart, rules=Rules(replace_at=replace_at))
        assert bool(system.done) is done


def test_while_another_program_heals_nothing_is_done(play: Play, tmp_path: Path) -> None:
    with Turn(tmp_path / "lock") as one, Turn(tmp_path / "lock") as other:
        assert one.take() and one.take() and not other.take()
        looks = [WHOLE], [AWAY], [AWAY]
        system, _ = play(*(({"sdc"}, look) for look in looks), heal=True, may_heal=other.take)
        assert system.done == []
    with Turn(tmp_path / "lock") as other:
        assert other.take()
