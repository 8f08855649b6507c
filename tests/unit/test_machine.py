"""The machine under a service's plan, as far as it needs no rights."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import cast

import pytest

from blockpair import vip_guard
from blockpair.config.service import ServiceTable, service_config
from blockpair.failover.executor import StepFailed
from blockpair.failover.machine import Machine, Replica
from blockpair.failover.plan import Action, Role, Verb, Watchdog

# An interface that no machine has.
VIP = "192.0.2.10/24@bp-none0"


def guards() -> set[int]:
    """The processes of guards that this one started and that live."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if os.fsencode(vip_guard.__file__) in words and parent == os.getpid():
            found.add(int(entry.name))
    return found


def machine_of(directory: Path, replica: Replica, table: ServiceTable | None = None) -> Machine:
    return Machine(
        "r0",
        service_config(table or ServiceTable(vips=[VIP]), directory),
        replica,
        guard_file=directory / "r0.list",
        device_file=directory / "device",
        problem=print,
    )


def locked_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmLck")).split()[1])


def test_whoever_warms_up_at_the_same_time_shares_one_guard(tmp_path: Path) -> None:
    async def run() -> None:
        machine = machine_of(tmp_path, cast(Replica, None))
        before = guards()
        await asyncio.gather(*(machine.warm_up() for _ in range(4)))
        assert len(guards() - before) == 1
        await machine.drop()
        assert guards() == before

    asyncio.run(run())


class Leased:
    """May have its addresses for a moment."""

    async def addresses_until(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + 0.5


def test_a_guard_that_hangs_is_found_within_the_lease_and_does_not_keep_anybody(tmp_path: Path) -> None:
    async def run() -> None:
        machine = machine_of(tmp_path, cast(Replica, Leased()))
        before = guards()
        await machine.warm_up()
        assert await machine.pet()
        (guard,) = guards() - before
        os.kill(guard, signal.SIGSTOP)
        began = time.monotonic()
        async with asyncio.timeout(10):
            assert not await machine.pet()
            assert time.monotonic() - began < 2
            await machine.drop()
        assert guards() == before
        # An address without a guard is one too many.
        assert not await machine.pet()

    asyncio.run(run())


def test_a_guard_that_is_slow_to_start_does_not_use_up_the_time_for_the_address(tmp_path: Path) -> None:
    async def run() -> None:
        machine = machine_of(tmp_path, cast(Replica, Leased()))
        before = guards()
        await machine.warm_up()
        (guard,) = guards() - before
        os.kill(guard, signal.SIGSTOP)
        # Longer than the node's word holds.
        asyncio.get_running_loop().call_later(1.0, os.kill, guard, signal.SIGCONT)
        # The guard obeyed; what fails is the address, on an interface that is not there.
        with pytest.raises(StepFailed, match="bp-none0") as failed:
            await machine.perform(Action(Verb.CLAIM, VIP))
        assert "guard" not in str(failed.value)
        await machine.drop()
        assert guards() == before

    asyncio.run(run())


class Away:
    """Not Primary."""

    async def role(self) -> Role:
        return Role.SECONDARY

    async def has_epoch(self) -> bool:
        return False

    async def watchdog(self) -> Watchdog:
        return Watchdog.NONE

    async def device(self) -> None:
        return None


def test_what_cannot_be_seen_is_told_and_stands_as_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'no bus' >&2; exit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    machine = machine_of(tmp_path, cast(Replica, Away()), ServiceTable(units=["db.service"], vips=[VIP]))
    state = asyncio.run(machine.observe())
    assert state.units == {"db.service"} and not state.vips
    assert len(state.unseen) == 1 and "no bus" in state.unseen[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="locking memory is root's")
def test_the_guards_program_needs_no_disk_once_it_runs(tmp_path: Path) -> None:
    async def run() -> None:
        machine = machine_of(tmp_path, cast(Replica, Leased()))
        before = guards()
        await machine.warm_up()
        assert await machine.pet()
        (guard,) = guards() - before
        assert locked_kib(guard) > 1000
        await machine.drop()

    asyncio.run(run())


def test_an_interface_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        machine = machine_of(tmp_path, cast(Replica, None))
        with pytest.raises(StepFailed, match=r"bp-none0 cannot be used for 192\.0\.2\.10: "):
            await machine.perform(Action(Verb.PROBE))

    asyncio.run(run())
