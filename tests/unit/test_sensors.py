"""What is read of the machine, from files as the kernel writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.cli.main import run
from blockpair.health.score import health
from blockpair.health.sensors import DiskCounters, Sensors, lag, parse_pressure, rates

PRESSURE = """\
some avg10=12.50 avg60=3.00 avg300=1.00 total=12345
full avg10=1.25 avg60=0.00 avg300=0.00 total=99
"""


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_pressure_stalls() -> None:
    assert parse_pressure(PRESSURE) == {"some": 12.5, "full": 1.25}
    assert parse_pressure("") == {}


def test_a_disks_latency_is_of_the_requests_in_between() -> None:
    old, new = DiskCounters(100, 500, 1000), DiskCounters(110, 900, 1800)
    assert rates(old, new, 1.0) == (40.0, 80.0)
    # Replaced, and counting anew.
    assert rates(new, DiskCounters(1, 2, 3), 1.0) == (0.0, 0.0)
    # Hung: busy all the time, and nothing comes back.
    assert rates(old, DiskCounters(100, 500, 6000), 5.0) == (5000.0, 100.0)


counters = st.builds(DiskCounters, *[st.integers(0, 1 << 40)] * 3)


@given(counters, counters, st.floats(0.001, 1e6))
def test_rates_are_never_negative(old: DiskCounters, new: DiskCounters, seconds: float) -> None:
    latency, busy = rates(old, new, seconds)
    assert latency >= 0 and 0 <= busy <= 100


def test_arrays_errors_and_pressure_of_a_machine(tmp_path: Path) -> None:
    write(tmp_path, "proc/pressure/cpu", PRESSURE)
    write(tmp_path, "proc/pressure/memory", PRESSURE)
    write(tmp_path, "sys/block/md0/md/array_state", "clean\n")
    write(tmp_path, "sys/block/md0/md/degraded", "1\n")
    write(tmp_path, "sys/block/md1/md/array_state", "broken\n")
    write(tmp_path, "sys/block/md2/md/array_state", "clear\n")
    write(tmp_path, "sys/block/sda/device/ioerr_cnt", "0x10\n")
    write(tmp_path, "sys/block/loop0/device/ioerr_cnt", "0x99\n")
    now = [0.0]
    sensors = Sensors(tmp_path, lambda: now[0])

    def errors() -> float:
        found = {one.name: one.value for one in sensors.look().readings}
        assert found["cpu"] == 12.5 and found["memory"] == 1.25
        assert found["array md0"] == 1 and found["array md1"] == math.inf and "array md2" not in found
        assert "disk-errors loop0" not in found
        return found["disk-errors sda"]

    # What there was before this life is not held against the disk; what was an hour ago is forgotten.
    assert errors() == 0
    write(tmp_path, "sys/block/sda/device/ioerr_cnt", "0x13\n")
    now[0] = 60
    assert errors() == 3
    now[0] = 3700
    assert errors() == 0


def test_this_machine_can_be_looked_at() -> None:
    sensors = Sensors()
    sensors.look()
    measured = sensors.look()
    names = {reading.kind for reading in measured.readings}
    assert {"cpu", "memory-available"} <= names
    assert 0 <= health(measured.readings).score <= 100


def test_what_peers_lack_is_told_by_resource() -> None:
    assert [(one.name, one.value) for one in lag([("r0", 3 << 20)])] == [("lag r0", 3.0)]


def test_the_command_needs_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(tmp_path), "health", "--json"]) in (0, 4)
    told = json.loads(capsys.readouterr().out)
    assert 0 <= told["score"] <= 100 and told["parts"][0]["cap"] >= told["score"] - 0.1
    assert any(line.startswith("lag and peers: no blockpaird answers") for line in told["unseen"])
    assert run(["--dir", str(tmp_path), "health"]) in (0, 4)
    assert "of 100" in capsys.readouterr().out
