"""What is done about a Primary that its clients cannot reach: an interface with an address of the service has
no carrier. Pure: a memory, what is seen and the time in, a decision out.

The service goes to the peer, which refuses where it is cut off in the same way. A cable that comes and goes
takes it along ever more rarely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blockpair.failover.restart import Remedy, Verdict


@dataclass(frozen=True)
class ReachPolicy:
    """Times are seconds."""

    patience: float = 3.0
    """Without a carrier before anything is done: a switch that negotiates anew takes one or two."""
    pauses: tuple[float, ...] = (60.0, 300.0, 900.0)
    """After a move, or an attempt; the last one for all that follow."""
    memory: float = 3600.0
    """For how long one is remembered."""


@dataclass(frozen=True)
class ReachMemory:
    """``dark_since``: when an interface lost its carrier; ``moves``: when the service moved for that, or was
    to.
    """

    dark_since: float | None = None
    moves: tuple[float, ...] = ()

    def moved(self, now: float) -> ReachMemory:
        """After another one."""
        return replace(self, moves=(*self.moves, now))


def judge_reach(
    memory: ReachMemory, policy: ReachPolicy, dark: Sequence[str], now: float, *, peer_can: bool
) -> tuple[ReachMemory, Verdict]:
    """``dark``: interfaces with an address of the service and without a carrier; ``peer_can``: the peer is in
    sync and within reach. ``now``: seconds on a clock that never goes back.
    """
    moves = tuple(at for at in memory.moves if now - at < policy.memory)
    if not dark:
        return ReachMemory(None, moves), Verdict(Remedy.NOTHING)
    since = now if memory.dark_since is None else memory.dark_since
    memory = ReachMemory(since, moves)
    why = f"no carrier on {', '.join(sorted(dark))}: clients cannot reach it"
    if now - since < policy.patience:
        return memory, Verdict(Remedy.NOTHING, why=why)
    if not peer_can:
        return memory, Verdict(Remedy.STAY, why=f"{why}, and the peer cannot take over")
    if moves and now - moves[-1] < policy.pauses[min(len(moves), len(policy.pauses)) - 1]:
        return memory, Verdict(Remedy.STAY, why=f"{why}, and it moved for that a short time ago")
    return memory.moved(now), Verdict(Remedy.SWITCHOVER, why=why)
