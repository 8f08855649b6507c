"""What the watch tells and does, look after look; the system that it looks at is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid import mdadm, sysfs, watch
from blockpair.raid.events import Event
from blockpair.raid.heal import MOST_RETURNS
from blockpair.raid.latency import Ticks
from blockpair.raid.mdadm import Superblock
from blockpair.raid.model import Array
from blockpair.raid.smart import Smart
from blockpair.raid.steps import Step
from tests.unit.raid_samples import array, member

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


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Have a watch take looks; the last of them ends it."""

    def played(
        *looks: tuple[set[str], list[Array] | BlockpairError],
        heal: bool = False,
        fails: bool = False,
        smart: dict[str, Smart] | None = None,
        ticks: Callable[[str, int], Ticks] | None = None,
    ) -> tuple[Played, list[Event]]:
        system = Played(looks, fails)
        monkeypatch.setattr(watch, "Hints", lambda: system)
        monkeypatch.setattr(watch, "Inventory", lambda: system)
        monkeypatch.setattr(watch, "carry_out", system.carry_out)
        monkeypatch.setattr(watch, "_smart_of", lambda _: smart or {})
        monkeypatch.setattr(sysfs, "ticks", lambda device: ticks(device, system.at) if ticks else None)
        monkeypatch.setattr(sysfs, "idle_devices", lambda: ["sdc", "sdz"])
        monkeypatch.setattr(
            mdadm, "examine", lambda path: Superblock("UUID-data", "data", 1) if path == "/dev/sdc" else None
        )
        told: list[Event] = []
        try:
            for event in islice(watch.Watch(heal=heal, clock=lambda: system.clock).events(), 1000):
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
