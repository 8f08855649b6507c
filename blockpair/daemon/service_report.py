"""What a run of a service comes to, as it is published and as it is told to who asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.executor import Result, StepEvent
from blockpair.failover.plan import UPWARD, Wish
from blockpair.failover.progress import Outcome
from blockpair.status.report import ServiceRun, ServiceStep
from blockpair.status.service import remedy_for
from blockpair.units import utc


def step_of(event: StepEvent) -> ServiceStep:
    """An event of the executor, as it is published."""
    return ServiceStep(
        name=event.step,
        way=event.way,
        what=event.what,
        seconds=round(event.seconds, 4),
        succeeded=event.succeeded,
        problems=list(event.problems),
    )


def run_of(wish: Wish, result: Result | None, seconds: float, steps: Sequence[ServiceStep]) -> ServiceRun:
    """A run that ended just now, as it is published; ``result`` None: another one cut in."""
    return ServiceRun(
        wish=wish,
        outcome="cut" if result is None else result.outcome,
        time=utc(datetime.now(UTC)),
        seconds=round(seconds, 4),
        steps=list(steps),
        step=(result.step or None) if result is not None else None,
        why=(result.why or None) if result is not None else None,
    )


def error_of(name: str, result: Result, refusal: BlockpairError | None) -> BlockpairError:
    """What to say of a run that did not do what it should; ``refusal`` is what the engine said meanwhile."""
    up, stuck = result.wish in UPWARD, result.outcome is Outcome.STUCK
    ended = "what was done was undone" if up else "the service is up as before"
    if stuck:
        ended = "and that could not be undone" if up else "and nothing above that is up"
    if result.step in ("epoch", "promote") and refusal is not None:
        if up and not stuck:
            return refusal
        return BlockpairError(refusal.kind, f"{refusal.message}; {ended}", refusal.remedy)
    return BlockpairError(
        ErrorKind.IN_USE if result.step == "mount" and not up else ErrorKind.FAILED,
        f"{result.wish} of {name} failed at the step '{result.step}': {result.why}; {ended}",
        remedy_for(name, result.wish, result.step, result.why),
    )
