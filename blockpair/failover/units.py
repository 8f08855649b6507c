"""Starts and stops systemd units."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from blockpair.failover.commands import run

_ACTIVE = frozenset({"active", "reloading"})
_DOWN = frozenset({"inactive", "failed", "unknown"})
# What a daemon that is to end can wait for the answer. A machine that goes down is busy, and one that is
# taken for running loses its disk under what is mounted.
_ASK_SECONDS = 15.0


class UnitError(Exception):
    """A unit that did not do what it was to do, and why."""


async def active(units: Iterable[str]) -> frozenset[str]:
    """Those of ``units`` that are active. Raises `UnitError` where systemd cannot be asked."""
    states = await _states(list(units), "is-active")
    return frozenset(unit for unit, state in states.items() if state in _ACTIVE)


async def _states(wanted: Sequence[str], *question: str) -> dict[str, str]:
    """The answer to a ``question`` of systemctl's that has a word for each unit."""
    if not wanted:
        return {}
    done = await run("systemctl", *question, "--", *wanted)
    states = done.text.split()
    # Its exit code says only whether any is; a line a unit says which.
    if len(states) != len(wanted):
        raise UnitError(f"systemd cannot be asked: {done.reason}")
    return dict(zip(wanted, states, strict=True))


async def unknown(wanted: Sequence[str]) -> list[str]:
    """Those of ``wanted`` that could not be started, and why, in words. Raises `OSError`, `UnitError`."""
    states = await _states(wanted, "show", "--property=LoadState", "--value")
    return [
        f"systemd has no unit {unit}" if state == "not-found" else f"the unit {unit} is {state}"
        for unit, state in states.items()
        if state != "loaded"
    ]


async def start(unit: str) -> None:
    """Start it and wait until it is active. Raises `UnitError`."""
    # A unit that failed too often of late would be refused, and this is a new beginning.
    await run("systemctl", "reset-failed", "--", unit)
    done = await run("systemctl", "start", "--", unit)
    if done.code:
        raise UnitError(f"{unit} did not start: {done.reason} (see `journalctl -u {unit}`)")


async def stop(unit: str) -> None:
    """Stop it, also one that is being started, and wait until it has. Raises `UnitError`."""
    done = await run("systemctl", "stop", "--", unit)
    if done.code and (await _states([unit], "is-active"))[unit] not in _DOWN:
        raise UnitError(f"{unit} did not stop: {done.reason}")


async def kill(unit: str) -> None:
    """SIGKILL to all of its processes, then as `stop`. Raises `UnitError`."""
    await run("systemctl", "kill", "--signal=SIGKILL", "--", unit)
    await stop(unit)


async def machine_stops() -> bool:
    """Whether the whole machine is going down, as far as systemd says, and says so in time."""
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            return (await run("systemctl", "is-system-running")).text.strip() == "stopping"
    except OSError:
        return False
