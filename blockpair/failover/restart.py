"""What is done about a unit that dies on the Primary. Pure: a memory, what is seen and the time in, a
decision out.

Restarts first, each after a longer pause; then the other node, which may have what this one lacks; and
then nothing more but a word to a person: a unit that dies on both nodes is not cured by going to and fro
between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass(frozen=True)
class RestartPolicy:
    """Times are seconds."""

    restarts: int = 3
    """Of one unit that are remembered; with so many, the next is a switchover."""
    pauses: tuple[float, ...] = (1.0, 5.0, 15.0)
    """Before each restart; the last one for all that follow."""
    memory: float = 600.0
    """For how long a restart is remembered: a unit that has run so long is well again."""
    switchovers: int = 1
    """That are remembered, for units that died; with so many, the service stays where it is."""
    switchover_memory: float = 6 * 3600.0


class Remedy(StrEnum):
    """What to do now."""

    NOTHING = "nothing"
    RESTART = "restart"
    SWITCHOVER = "switchover"
    STAY = "stay"
    """Nothing can be done that would help: a person is told."""


@dataclass(frozen=True)
class Verdict:
    """What to do, to which unit, and why."""

    remedy: Remedy
    unit: str = ""
    why: str = ""


@dataclass(frozen=True)
class Memory:
    """What is remembered. ``restarts``: when, by unit; ``dead_since``: of units that are down now;
    ``switchovers``: when, for a unit that died.
    """

    restarts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    dead_since: dict[str, float] = field(default_factory=dict)
    switchovers: tuple[float, ...] = ()


def judge(
    memory: Memory,
    policy: RestartPolicy,
    units: Sequence[str],
    active: frozenset[str],
    now: float,
    *,
    peer_can: bool,
) -> tuple[Memory, Verdict]:
    """``units``: those of the service, in the order in which they start; ``peer_can``: the peer is in sync
    and within reach. ``now``: seconds on a clock that never goes back. The first unit that is down is seen
    to first: the later ones may need it.
    """
    memory = Memory(
        {
            unit: kept
            for unit, times in memory.restarts.items()
            if unit in units and (kept := tuple(at for at in times if now - at < policy.memory))
        },
        {unit: memory.dead_since.get(unit, now) for unit in units if unit not in active},
        tuple(at for at in memory.switchovers if now - at < policy.switchover_memory),
    )
    dead = next((unit for unit in units if unit not in active), None)
    if dead is None:
        return memory, Verdict(Remedy.NOTHING)
    tried = memory.restarts.get(dead, ())
    if len(tried) < policy.restarts:
        pause = policy.pauses[min(len(tried), len(policy.pauses) - 1)] if policy.pauses else 0.0
        waited = now - max((memory.dead_since[dead], *tried[-1:]))
        if waited < pause:
            return memory, Verdict(
                Remedy.NOTHING, dead, f"{dead} is down; restarted in {pause - waited:.0f} s"
            )
        again = {**memory.restarts, dead: (*tried, now)}
        count = f"{len(tried) + 1} of {policy.restarts}"
        return replace(memory, restarts=again), Verdict(
            Remedy.RESTART, dead, f"{dead} is down; restart {count}"
        )
    failed = f"{dead} is down after {len(tried)} restarts"
    if len(memory.switchovers) >= policy.switchovers:
        return memory, Verdict(Remedy.STAY, dead, f"{failed}, and a switchover did not help")
    if not peer_can:
        return memory, Verdict(Remedy.STAY, dead, f"{failed}, and the peer cannot take over")
    return replace(memory, switchovers=(*memory.switchovers, now)), Verdict(Remedy.SWITCHOVER, dead, failed)
