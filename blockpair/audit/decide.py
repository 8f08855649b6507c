"""What an audit does next. Pure: what is seen goes in with the time, and a step comes out.

Resources are compared one after the other, the one first whose oldest proof is the oldest; where each begins,
and goes on, `blockpair.verify` decides. Nothing is compared while something else reads the disks in earnest:
a resync, an array's scrub or rebuild, another audit. What runs then is stopped, and goes on afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from blockpair.audit.outcome import Result
from blockpair.verify.record import Ended


@dataclass(frozen=True)
class Copies:
    """A resource as it is seen now. ``leader``: the node whose audits compare it; ``problem``: why it cannot
    be compared; ``oldest``: when its part was proved identical whose proof is the oldest, None where a part
    has none; ``running``: it is being compared; ``ended`` and ``reason``: how that ended; ``findings``: how
    many blocks differ.
    """

    leader: str
    problem: str | None = None
    oldest: int | None = None
    running: bool = False
    ended: Ended | None = None
    reason: str | None = None
    findings: int = 0


@dataclass(frozen=True)
class Seen:
    """``obstacles``: why nothing may be compared at this moment, in words."""

    resources: Mapping[str, Copies]
    obstacles: Sequence[str] = ()


@dataclass(frozen=True)
class Start:
    """Begin to compare a resource, or go on."""

    name: str


@dataclass(frozen=True)
class Stop:
    """Have it stop where it is."""

    name: str


@dataclass(frozen=True)
class Wait:
    """Nothing is to be done for a moment; ``why``: what is waited for, empty while a resource is compared."""

    why: str = ""


@dataclass(frozen=True)
class End:
    """There is nothing more to do."""


Step = Start | Stop | Wait | End


@dataclass(frozen=True)
class Audit:
    """An audit under way on ``node``. ``deadline``: until when; ``waiting``: what is still to be compared;
    ``current``: what is being compared, since ``since``; ``spent``: for how long each was; times are of one
    clock, in seconds.
    """

    node: str
    deadline: float | None
    waiting: frozenset[str]
    current: str | None = None
    since: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)
    results: tuple[Result, ...] = ()

    def ended(self, name: str, result: Result) -> Audit:
        """With the result of a resource."""
        return replace(
            self,
            waiting=self.waiting - {name},
            current=None if self.current == name else self.current,
            results=(*self.results, result),
        )


def step(audit: Audit, seen: Seen, now: float) -> tuple[Audit, Step]:
    """What to do now, and where the audit stands then. A `Start` that is refused: `refused`."""
    late = audit.deadline is not None and now >= audit.deadline
    if audit.current is not None:
        audit, doing = _current(audit, audit.current, seen, now, late=late)
        if doing is not None:
            return audit, doing
    return _next(audit, seen, now, late=late)


def refused(audit: Audit, name: str, why: str) -> Audit:
    """Its comparison could not be begun."""
    return audit.ended(name, Result(name, "failed", why))


def _current(audit: Audit, name: str, seen: Seen, now: float, *, late: bool) -> tuple[Audit, Step | None]:
    copies = seen.resources.get(name)
    if copies is None:
        return audit.ended(name, Result(name, "failed", "it is gone")), None
    paused = replace(audit, current=None, spent=_spent(audit, name, now))
    if not copies.running:
        return paused.ended(name, _result(name, copies, paused.spent[name])), None
    if copies.problem is not None:
        failed = Result(name, "failed", copies.problem, paused.spent[name], copies.findings)
        return paused.ended(name, failed), Stop(name)
    if late:
        return paused.ended(name, _late(paused, name, copies.findings)), Stop(name)
    if seen.obstacles:
        return paused, Stop(name)
    return audit, Wait()


def _next(audit: Audit, seen: Seen, now: float, *, late: bool) -> tuple[Audit, Step]:
    for name in sorted(audit.waiting):
        copies = seen.resources.get(name)
        if copies is None:
            audit = replace(audit, waiting=audit.waiting - {name})
        elif copies.leader != audit.node:
            why = f"{copies.leader} leads it, and compares it in its own audits"
            audit = audit.ended(name, Result(name, "left", why))
        elif copies.problem is not None:
            audit = audit.ended(name, Result(name, "failed", copies.problem, findings=copies.findings))
    if not audit.waiting:
        return audit, End()
    if late:
        for name in sorted(audit.waiting):
            audit = audit.ended(name, _late(audit, name, seen.resources[name].findings))
        return audit, End()
    if seen.obstacles:
        return audit, Wait(seen.obstacles[0])
    free = [name for name in audit.waiting if not seen.resources[name].running]
    if not free:
        return audit, Wait(f"{min(audit.waiting)} is being compared by command")
    # What was never proved comes before everything that was.
    name = min(free, key=lambda name: (seen.resources[name].oldest or 0, name))
    return replace(audit, current=name, since=now), Start(name)


def _result(name: str, copies: Copies, seconds: float) -> Result:
    why = copies.reason or ""
    if copies.ended in ("identical", "differences"):
        return Result(name, copies.ended, why, seconds, copies.findings)
    if copies.ended == "stopped":
        return Result(name, "unfinished", why, seconds, copies.findings)
    return Result(name, "failed", why or "it is not known why", seconds, copies.findings)


def _late(audit: Audit, name: str, findings: int) -> Result:
    why = "the time was over; the next audit goes on from there"
    return Result(name, "unfinished", why, audit.spent.get(name, 0.0), findings)


def _spent(audit: Audit, name: str, now: float) -> dict[str, float]:
    return {**audit.spent, name: audit.spent.get(name, 0.0) + now - audit.since}
