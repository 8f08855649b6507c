"""The guard of the virtual addresses: what it is told, what it answers, and until when it waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair import vip_guard
from blockpair.vip_guard import Guard, drop_listed, parse

# An interface that no machine has: what is removed there is gone already.
VIP = "192.0.2.10/24@bp-none0"
SIX = "2001:db8::10/64@bp-none0"


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_an_address_is_parsed_as_it_is_written() -> None:
    assert parse(VIP)[1:] == (bytes([192, 0, 2, 10]), 24, "bp-none0")
    assert parse(SIX)[2:] == (64, "bp-none0")


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.10", "192.0.2.10/24", "192.0.2.10@eth0", "192.0.2.10/33@eth0", "x/24@eth0", "::1/x@lo"],
)
def test_what_is_none_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)
    assert Guard(str(tmp_path / "vips")).obey(f"hold {text}").startswith("error ")


def test_it_keeps_the_list_that_its_successor_needs(tmp_path: Path) -> None:
    file = tmp_path / "vips"
    guard = Guard(str(file))
    assert [guard.obey(line) for line in (f"hold {VIP}", f"hold {SIX}", f"hold {VIP}")] == ["ok"] * 3
    assert file.read_text() == f"{VIP}\n{SIX}\n"
    assert guard.obey(f"drop {VIP}") == "ok" and file.read_text() == f"{SIX}\n"
    assert guard.drop_all() and file.read_text() == ""
    assert drop_listed(str(file)) == 0 and drop_listed(str(tmp_path / "none")) == 0


def test_a_promise_for_one_address_is_not_for_the_next(tmp_path: Path) -> None:
    guard = Guard(str(tmp_path / "vips"))
    assert guard.left() > 0
    guard.obey(f"hold {VIP}")
    assert guard.left() <= 10
    guard.obey(f"until {boot_time() + 600}")
    assert 590 < guard.left() <= 600
    guard.obey(f"drop {VIP}")
    guard.obey(f"hold {SIX}")
    assert guard.left() <= 10
    # A lease that has run out is told as such.
    assert guard.obey(f"until {boot_time()}") == "ok" and guard.left() <= 0


def test_what_it_holds_is_renewed_now_and_then_and_only_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[str] = []
    monkeypatch.setattr(vip_guard, "renew", renewed.append)
    now = boot_time()
    monkeypatch.setattr(vip_guard, "_now", lambda: now)
    guard = Guard(str(tmp_path / "vips"))
    guard.obey(f"hold {VIP}")
    guard.obey(f"hold {SIX}")
    guard.obey(f"until {now + 13}")
    for _ in range(20):
        now += 1
        guard.tend()
    assert renewed == [VIP, SIX] * 2


@given(st.text(max_size=80))
def test_any_line_is_answered(line: str) -> None:
    answer = Guard("/dev/null/none").obey(line)
    assert answer == "ok" or answer.startswith("error ")


def test_the_program_removes_and_ends_when_its_input_ends(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", vip_guard.__file__]
    file = tmp_path / "vips"
    told = f"hold {VIP}\nuntil {boot_time() + 5}\nnonsense\n"
    done = subprocess.run(
        [*words, "--list", str(file)], input=told, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[:2]) == (0, ["ok", "ok"])
    assert done.stdout.splitlines()[2].startswith("error 'nonsense'") and file.read_text() == ""
    assert subprocess.run([*words, "--nonsense"], capture_output=True, check=False).returncode == 2
    shown = subprocess.run([*words, "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and "Example: blockpair-vip-guard" in shown.stdout


def test_a_directory_of_lists_is_dropped_as_a_whole(tmp_path: Path) -> None:
    for name in ("r0.list", "r1.list"):
        (tmp_path / name).write_text(f"{VIP}\n{SIX}\n")
    (tmp_path / "r0.list.lock").write_text("not a list\n")
    program = [sys.executable, vip_guard.__file__, "--drop"]
    assert subprocess.run([*program, str(tmp_path)], check=False).returncode == 0
    (tmp_path / "r1.list").write_text("not an address\n")
    done = subprocess.run([*program, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "is not ADDRESS" in done.stderr
    assert subprocess.run([*program, str(tmp_path / "none")], check=False).returncode == 0
