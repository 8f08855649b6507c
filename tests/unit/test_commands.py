"""The system's programs: none is left behind, and systemd's answers are understood."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blockpair.failover import units
from blockpair.failover.commands import run


def test_output_is_bounded_and_its_end_is_kept() -> None:
    done = asyncio.run(run("sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last >&2; exit 3"))
    assert done.code == 3 and done.text.endswith("last\n") and len(done.text) <= 16 << 10
    assert done.reason.endswith("last")


def test_a_program_whose_time_is_up_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pids"

    async def scene() -> None:
        script = f"sleep 600 & echo $! $$ >{file}.new; mv {file}.new {file}; trap '' TERM; wait"
        task = asyncio.create_task(run("sh", "-c", script))
        await _until(file.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    for pid in file.read_text().split():
        asyncio.run(_until(lambda pid=pid: not _runs(int(pid))))  # type: ignore[misc]


def test_a_program_that_is_cancelled_while_it_starts_leaves_nobody() -> None:
    seconds = f"600.{os.getpid()}"

    async def scene(turns: int) -> None:
        task = asyncio.create_task(run("sh", "-c", f"sleep {seconds} & wait"))
        for _ in range(turns):
            await asyncio.sleep(0)
        # The program has its child, and asyncio has not looked yet.
        time.sleep(0.03)  # noqa: ASYNC251
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await _until(lambda: not _sleepers(seconds))

    for turns in range(1, 12):
        asyncio.run(scene(turns))


def _sleepers(seconds: str) -> list[Path]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if seconds.encode() in file.read_bytes().split(b"\0"):
                found.append(file)
    return found


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        asyncio.run(run("no-such-program-here"))
    assert caught.value.filename == "no-such-program-here"


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in systemctl's place; its calls are in ``calls``."""

    def write(body: str) -> None:
        script = tmp_path / "systemctl"
        script.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n{body}\n')
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return write


def test_active_is_a_line_a_unit(systemctl: Callable[[str], None]) -> None:
    systemctl("echo active; echo failed; echo reloading; echo activating; exit 3")
    found = asyncio.run(units.active(["a.service", "b.service", "c.service", "d.service"]))
    assert found == {"a.service", "c.service"}
    assert asyncio.run(units.active([])) == frozenset()


def test_a_unit_that_could_not_be_started_is_told_before(systemctl: Callable[[str], None]) -> None:
    systemctl("printf 'loaded\\n\\nnot-found\\n\\nmasked\\n'")
    found = asyncio.run(units.unknown(["a.service", "b.service", "c.service"]))
    assert found == ["systemd has no unit b.service", "the unit c.service is masked"]
    assert asyncio.run(units.unknown([])) == []
    systemctl("echo 'System has not been booted with systemd as init system' >&2; exit 1")
    with pytest.raises(units.UnitError, match="not been booted"):
        asyncio.run(units.unknown(["a.service"]))


def test_a_system_without_systemd_is_an_error_and_not_inactive(systemctl: Callable[[str], None]) -> None:
    systemctl("echo 'System has not been booted with systemd as init system' >&2; exit 1")
    with pytest.raises(units.UnitError, match="not been booted"):
        asyncio.run(units.active(["a.service"]))


def test_a_unit_that_fails_is_named_with_systemds_reason(
    systemctl: Callable[[str], None], tmp_path: Path
) -> None:
    systemctl('case "$1" in start) echo "Unit a.service not found." >&2; exit 5 ;; esac')
    with pytest.raises(units.UnitError, match=r"a\.service did not start: Unit a\.service not found"):
        asyncio.run(units.start("a.service"))
    # A unit that failed before is not refused for that.
    assert (tmp_path / "calls").read_text().splitlines() == [
        "reset-failed -- a.service",
        "start -- a.service",
    ]


def test_stop_fails_only_where_the_unit_is_not_down(systemctl: Callable[[str], None]) -> None:
    systemctl('case "$1" in stop) echo "not loaded" >&2; exit 5 ;; is-active) echo inactive; exit 3 ;; esac')
    asyncio.run(units.stop("a.service"))
    systemctl('case "$1" in stop) echo "timed out" >&2; exit 1 ;; is-active) echo active ;; esac')
    with pytest.raises(units.UnitError, match="timed out"):
        asyncio.run(units.stop("a.service"))
    # It would be active in a moment.
    systemctl('case "$1" in stop) echo "timed out" >&2; exit 1 ;; is-active) echo activating; exit 3 ;; esac')
    with pytest.raises(units.UnitError, match="timed out"):
        asyncio.run(units.stop("a.service"))


def test_whether_the_machine_stops_is_not_waited_for_without_end(
    systemctl: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is busy, going down.
    systemctl("sleep 4; echo stopping; exit 1")
    assert asyncio.run(units.machine_stops())
    monkeypatch.setattr(units, "_ASK_SECONDS", 0.5)
    systemctl("exec sleep 600")
    began = time.monotonic()
    assert not asyncio.run(units.machine_stops())
    assert time.monotonic() - began < 30


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
