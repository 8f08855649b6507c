"""What a node does about its service by itself: it follows the role. Pure: what is seen and remembered in,
what to do out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from blockpair.failover.plan import Wish
from blockpair.failover.progress import Progress

PAUSES = (1.0, 5.0, 15.0, 60.0)
"""Seconds between a run that failed and the next one; the last for all that follow."""
_BEFORE_THE_ROLE = frozenset({"epoch", "watchdog", "promote"})


class Role(StrEnum):
    """What the engine is, as far as a service goes by it."""

    SERVING = "serving"
    RESUMING = "resuming"
    """It was Primary when the last daemon ended, and is about to be again, or not."""
    AWAY = "away"
    """Not Primary, or without an engine: nothing of the service may be here."""


class Duty(StrEnum):
    """What to do now."""

    NOTHING = "nothing"
    FINISH = "finish"
    """The run that a killed daemon left."""
    BRING_UP = "bring-up"
    STOP = "stop"
    TAKE_BACK = "take-back"
    """A switchover from here ended in the middle."""


@dataclass(frozen=True)
class Seen:
    """``may_write``: also whether this node may have addresses at all; ``defined``: there is a service to
    bring up; ``present``: something of one may be here; ``held``: somebody wants it down; ``moving``: a
    switchover from here has begun, and nobody sees to it any more; ``complete``: all addresses are here that
    should be; ``unfinished``: what a killed daemon left.
    """

    role: Role
    may_write: bool
    defined: bool
    present: bool
    held: bool
    complete: bool
    moving: bool = False
    unfinished: Progress | None = None


@dataclass(frozen=True)
class Memory:
    """``up``: the last run brought it up, and nothing has taken it down; ``failures``: runs in a row that did
    not do what they should; ``failed_at``: the last of them, on the clock of ``now``; ``stopping``: it was to
    stop everything.
    """

    up: bool = False
    failures: int = 0
    failed_at: float = 0.0
    stopping: bool = False

    def failed(self, now: float, *, stopping: bool = False) -> Memory:
        """After another failure."""
        return Memory(failures=self.failures + 1, failed_at=now, stopping=stopping)

    def waits(self, now: float) -> float:
        """Seconds until the next try; 0 or less: now."""
        if not self.failures:
            return 0.0
        return self.failed_at + PAUSES[min(self.failures, len(PAUSES)) - 1] - now


def decide(seen: Seen, memory: Memory, now: float) -> Duty:  # noqa: PLR0911 - a rule, a line
    """``now``: seconds on a clock that never goes back."""
    waits = memory.waits(now) > 0
    match seen.role:
        case Role.RESUMING:
            return Duty.NOTHING
        case Role.AWAY:
            if seen.unfinished is not None and _may_finish_away(seen.unfinished):
                return Duty.NOTHING if waits else Duty.FINISH
            if seen.present:
                return Duty.NOTHING if waits and memory.stopping else Duty.STOP
            return Duty.TAKE_BACK if seen.moving and not waits else Duty.NOTHING
    if not seen.may_write:
        return Duty.NOTHING
    if seen.unfinished is not None:
        return Duty.NOTHING if waits else Duty.FINISH
    if seen.held or not (seen.defined or seen.present) or waits:
        return Duty.NOTHING
    return Duty.NOTHING if memory.up and seen.complete else Duty.BRING_UP


def _may_finish_away(left: Progress) -> bool:
    """A way down is finished. A way up is gone on with only if it had not got the role yet: one that had it,
    and has lost it since, is taken down. One that began with it never takes it.
    """
    if left.wish in (Wish.PROMOTE, Wish.TAKE_OVER):
        return left.started <= _BEFORE_THE_ROLE
    return left.wish is not Wish.FOLLOW
