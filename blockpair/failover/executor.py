"""Runs a plan: each step with its time-out, its records in the journal, and an event with its duration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Protocol

from blockpair.config.service import Service
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.journal import Journal
from blockpair.failover.plan import Action, Ladder, Limits, State, Step, Wish, describe, plan
from blockpair.failover.progress import (
    Do,
    End,
    Mark,
    Outcome,
    Progress,
    Record,
    Undo,
    advance,
    beginning,
    done_meanwhile,
    failure,
    next_move,
)
from blockpair.failover.progress import replay as replay_records


class StepFailed(Exception):
    """An action did not do what it was to do: why, in words for a person."""


class System(Protocol):
    """What the executor needs of the machine."""

    async def observe(self) -> State:
        """What is, now."""

    async def perform(self, action: Action) -> None:
        """Do it; done already is done. Raises `StepFailed`; cancelled at its time-out, it leaves no process
        that would still change something.
        """


class Way(StrEnum):
    """Which way a step went."""

    DO = "do"
    UNDO = "undo"


@dataclass(frozen=True)
class StepEvent:
    """A step that ended. ``seconds``: its duration; ``problems``: of the rungs that failed, in order."""

    wish: Wish
    step: str
    way: Way
    what: str
    """The action that succeeded, or the last that was tried."""
    seconds: float
    succeeded: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """How a run ended. ``why``: what failed, with the reasons of every rung."""

    wish: Wish
    outcome: Outcome
    steps: tuple[StepEvent, ...] = ()
    step: str = ""
    """The step at fault."""
    why: str = ""

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(event.seconds for event in self.steps)


def _silent(_event: StepEvent) -> None:
    """Nobody listens."""


@dataclass
class Executor:
    """One resource's. One run at a time; the caller sees to it."""

    service: Service
    system: System
    journal: Journal
    tell: Callable[[StepEvent], None] = _silent
    limits: Limits = field(default_factory=Limits)

    def unfinished(self) -> Progress | None:
        """The run that a killed process left, if one did. Raises `BlockpairError`."""
        progress = replay_records(self.journal.read())
        return None if progress is None or progress.ended else progress.restarted()

    async def run(self, wish: Wish, *, kill_users: bool = False) -> Result:
        """Carry out a wish. An unfinished run must be resumed first; only `Wish.STOP` may cut in, and goes on
        whether or not everything can be seen and written down.

        Raises `BlockpairError` where that is not so, or the machine cannot be looked at; `OSError` where
        the journal cannot be written.
        """
        if wish is not Wish.STOP and (left := self.unfinished()) is not None:
            raise BlockpairError(
                ErrorKind.BUSY, f"a {left.wish} was interrupted and is not finished", "let it finish first"
            )
        progress = Progress(wish, kill_users)
        steps = await self._plan(progress)
        records = beginning(wish, steps, kill_users=kill_users)
        kept = self._keep(wish, lambda: self.journal.begin(records))
        for record in records:
            progress = advance(progress, record)
        return await self._go(progress, steps, kept=kept)

    async def resume(self) -> Result | None:
        """Finish what a killed process left; None if it left nothing. Raises as `run` does."""
        progress = self.unfinished()
        if progress is None:
            return None
        steps = await self._plan(progress)
        # What follows half a line, which a full disk or a kill may have left, would not be read.
        self.journal.begin(self.journal.read())
        for record in done_meanwhile(steps, progress):
            self.journal.append(record)
            progress = advance(progress, record)
        return await self._go(progress, steps)

    async def _plan(self, progress: Progress) -> tuple[Step, ...]:
        state = await self.system.observe()
        if state.unseen and progress.wish is not Wish.STOP:
            why = f"this node's state cannot be seen: {'; '.join(state.unseen)}"
            raise BlockpairError(ErrorKind.FAILED, why, "put that right")
        return plan(self.service, state, progress.wish, limits=self.limits, kill_users=progress.kill_users)

    def _keep(self, wish: Wish, write: Callable[[], None]) -> bool:
        """Whether the journal has it. Raises `OSError`, unless everything is to stop: also on a full disk."""
        try:
            write()
        except OSError:
            if wish is not Wish.STOP:
                raise
            return False
        return True

    async def _go(self, progress: Progress, steps: tuple[Step, ...], *, kept: bool = True) -> Result:
        events: list[StepEvent] = []

        def record(*records: Record) -> None:
            nonlocal progress, kept
            for one in records:
                # What begins in the middle would be taken for another run's.
                kept = kept and self._keep(progress.wish, partial(self.journal.append, one))
                progress = advance(progress, one)

        while True:
            match next_move(steps, progress):
                case End(outcome):
                    record(Record(Mark.END, outcome))
                    fault = progress.stuck or progress.failed
                    return Result(progress.wish, outcome, tuple(events), fault, progress.why)
                case Do(step):
                    record(Record(Mark.STARTED, step.name))
                    event = await self._climb(progress.wish, step, Way.DO, step.do)
                    if event.succeeded:
                        record(Record(Mark.DONE, step.name))
                    elif (failed := failure(step, "; ".join(event.problems))) is not None:
                        record(failed)
                    else:
                        progress = replace(progress, passed=progress.passed | {step.name})
                case Undo(step):
                    record(Record(Mark.UNDOING, step.name))
                    event = await self._climb(progress.wish, step, Way.UNDO, step.undo)
                    problems = "; ".join(event.problems)
                    record(
                        Record(Mark.UNDONE, step.name)
                        if event.succeeded
                        else Record(Mark.STUCK, step.name, problems)
                    )
            if event.what:
                events.append(event)
                self.tell(event)

    async def _climb(self, wish: Wish, step: Step, way: Way, ladder: Ladder) -> StepEvent:
        """Try the rungs in order until one succeeds."""
        began = time.monotonic()
        problems: list[str] = []
        what = ""
        succeeded = not ladder
        for rung in ladder:
            what = describe(rung.action, self.service)
            try:
                async with asyncio.timeout(rung.timeout):
                    await self.system.perform(rung.action)
                succeeded = True
                break
            except TimeoutError:
                problems.append(f"{what}: not done after {rung.timeout:g} s")
            except (StepFailed, BlockpairError, OSError) as error:
                problems.append(f"{what}: {error}")
        return StepEvent(wish, step.name, way, what, time.monotonic() - began, succeeded, tuple(problems))
