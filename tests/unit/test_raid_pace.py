"""Syncs give way to the application, never stop, and leave every array as it was found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.raid import pace, sysfs
from blockpair.raid.events import Event
from blockpair.raid.latency import Ticks, parse_stat, waited
from blockpair.raid.memory import Memory
from blockpair.raid.model import Array, Sync
from blockpair.raid.pace import Limits, Window, bound, step, usual
from blockpair.raid.pacer import Pacer
from blockpair.raid.sysfs import SpeedLimit
from tests.unit.raid_samples import array

LIMITS = Limits(1000, 200_000)
LOW = Limits(1000, 10_000)


@given(
    st.integers(0, 10**6),
    st.none() | st.floats(0, 10**4),
    st.integers(0, 10**6),
    st.floats(0.1, 100),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_a_limit_is_never_below_the_least_nor_above_what_was_allowed(  # noqa: PLR0917
    limit: int, latency: float | None, synced: int, bound_ms: float, least: int, most: int
) -> None:
    found = step(limit, Window(latency, synced), bound_ms, Limits(least, most))
    assert min(max(least, most // 20), most) <= found <= most


def test_who_waits_halves_it_and_who_does_not_lets_it_grow() -> None:
    assert step(200_000, Window(30, 80_000), 20, LIMITS) == 40_000
    assert step(40_000, Window(30, 80_000), 20, LIMITS) == 20_000
    assert step(15_000, Window(30, 80_000), 20, LIMITS) == 10_000
    assert step(1500, Window(30, 0), 20, LOW) == 1000
    assert step(16_000, Window(10, 8000), 20, LIMITS) == 20_000
    assert step(18_000, Window(18, 8000), 20, LIMITS) == 18_000
    assert step(18_000, Window(None, 8000), 20, LIMITS) == 37_024


def test_the_bound_is_asked_for_or_follows_what_is_usual() -> None:
    assert bound(5.0, 2.0) == 2.0
    assert [bound(usual_ms, None) for usual_ms in (None, 0.1, 4.0, 20.0, 400.0)] == [
        20.0,
        1.0,
        12.0,
        50.0,
        600.0,
    ]
    assert usual(None, None) is None and usual(None, 4.0) == 4.0 and usual(4.0, None) == 4.0
    assert usual(4.0, 9.0) == 5.0


def test_an_application_that_gets_no_answer_at_all_waits_longest() -> None:
    assert waited(Ticks(10, 100, 3), Ticks(10, 100, 3), 2.0) == 2000.0
    assert waited(Ticks(10, 100, 0), Ticks(10, 100, 1), 2.0) is None
    assert waited(Ticks(10, 100), Ticks(14, 220), 2.0) == 30.0
    assert parse_stat("5 0 40 7 3 0 24 9 2 0 0") == Ticks(8, 16, 2)
    assert parse_stat("5 0 40 7 3 0 24 9") is None


@dataclass
class Played:
    """An array whose application waits the longer the faster it is synced: 2 ms, and one more for each MiB a
    second; it does a hundred I/Os a second while it is ``busy``.
    """

    file: str = "60000 (system)"
    speed_kib: int = 0
    busy: bool = True
    now: float = 0.0
    ticks: Ticks = field(default_factory=lambda: Ticks(0, 0))
    done_bytes: int | None = None
    written: list[str] = field(default_factory=list)

    def array(self) -> Array:
        sync = None if self.done_bytes is None else Sync("recover", self.done_bytes, 1 << 40, 1 << 20)
        return replace(array(), sync=sync)

    def live(self, pacer: Pacer, looks: int) -> list[Event]:
        told: list[Event] = []
        for _ in range(looks):
            self.now += 2.0
            self.speed_kib = 0 if self.done_bytes is None else min(50 << 10, int(self.file.split()[0]))
            if self.done_bytes is not None:
                self.done_bytes += self.speed_kib * 2048
            if self.busy:
                self.ticks = Ticks(self.ticks.ios + 200, self.ticks.milliseconds + int(200 * self.latency))
            told += pacer.look([self.array()])
        return told

    @property
    def latency(self) -> float:
        return 2 + self.speed_kib / 1024

    def write(self, _device: str, name: str, value: str) -> None:
        assert name == "sync_speed_max"
        self.written.append(value)
        self.file = "60000 (system)" if value == "system" else f"{value} (local)"

    def limit(self, _device: str, name: str) -> SpeedLimit:
        number, whose = ("1000", "(system)") if name == "sync_speed_min" else self.file.split()
        return SpeedLimit(int(number), whose == "(local)")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    made = Played()
    monkeypatch.setattr(sysfs, "write_attribute", made.write)
    monkeypatch.setattr(sysfs, "speed_limit", made.limit)
    monkeypatch.setattr(sysfs, "system_speed_max", lambda: 60_000)
    monkeypatch.setattr(sysfs, "ticks", lambda _: made.ticks)
    return made


def _pacer(played: Played, file: Path | None = None, asked_ms: float | None = None) -> Pacer:
    return Pacer(asked_ms, Memory(file), lambda: played.now)


def test_a_rebuild_settles_where_the_application_waits_as_long_as_it_may(played: Played) -> None:
    pacer = _pacer(played)
    assert played.live(pacer, 20) == [] and played.written == []
    played.done_bytes = 0
    told = played.live(pacer, 100)
    # Three times the usual 2 ms.
    (event,) = told
    # Three times the usual 2 ms, and what one step too far costs.
    waits = []
    for _ in range(20):
        played.live(pacer, 1)
        waits.append(played.latency)
    assert max(waits) <= 1.3 * pace.FACTOR * 2 and played.speed_kib > 2000
    assert event.code == "sync.held-back" and "6.0 ms are allowed" in event.cause
    assert "KiB/s for now" in event.consequence or "MiB/s for now" in event.consequence


def test_what_was_there_is_written_back_at_the_end_of_the_sync(played: Played) -> None:
    pacer = _pacer(played, asked_ms=5.0)
    played.live(pacer, 2)
    played.done_bytes = 0
    played.live(pacer, 10)
    assert played.file.endswith("(local)")
    played.done_bytes = None
    played.live(pacer, 1)
    assert played.file == "60000 (system)"


def test_and_where_nobody_waits_any_more(played: Played) -> None:
    pacer = _pacer(played, asked_ms=5.0)
    played.live(pacer, 2)
    played.done_bytes = 0
    played.live(pacer, 10)
    played.busy = False
    played.live(pacer, 20)
    assert played.file == "60000 (system)"


def test_a_persons_own_limit_is_never_exceeded_and_comes_back(played: Played) -> None:
    played.file = "30000 (local)"
    pacer = _pacer(played, asked_ms=5.0)
    played.live(pacer, 2)
    played.done_bytes = 0
    played.live(pacer, 20)
    assert all(int(value) <= 30_000 for value in played.written)
    # Another one, set meanwhile, is a person's too.
    played.file = "3000 (local)"
    played.live(pacer, 20)
    pacer.end()
    assert played.file == "3000 (local)"


def test_what_a_program_that_was_killed_left_is_put_right_by_the_next(played: Played, tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    killed = _pacer(played, file, asked_ms=5.0)
    played.live(killed, 2)
    played.done_bytes = 0
    played.live(killed, 10)
    assert played.file.endswith("(local)") and file.exists()
    next_ = _pacer(played, file, asked_ms=5.0)
    played.live(next_, 1)
    assert played.file == "60000 (system)" and Memory(file).all() == {}


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    file.write_text('{"a": 1')
    memory = Memory(file)
    assert memory.all() == {}
    memory.set("a", "1")
    assert Memory(file).get("a") == "1"
    nowhere = Memory(file / "below")
    with pytest.raises(OSError, match="memory"):
        nowhere.set("a", "1")
    assert nowhere.get("a") == "1"
