"""How far a run of a plan has come, and what comes next. Pure: records in, the next move out.

What is kept is only what a restart cannot observe: which steps there were to do, which of them this run
began (those are its own to undo), and whether it had failed. Everything else is seen again, and every
action may be repeated, so a run that was killed anywhere goes on from a fresh plan and ends as it would
have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from blockpair.failover.plan import OnFailure, Step, Wish


class Outcome(StrEnum):
    """How a run ended."""

    DONE = "done"
    UNDONE = "undone"
    """It failed, and what it had done was undone."""
    STUCK = "stuck"
    """It failed, and could not be undone, or not be stopped; nothing above the step at fault is up."""


class Mark(StrEnum):
    """What a record in the journal says."""

    BEGIN = "begin"
    OWED = "owed"
    """A step that was not done yet when the run began."""
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    STUCK = "stuck"
    END = "end"


@dataclass(frozen=True)
class Record:
    """A line of the journal: ``subject`` is the wish at the beginning, the outcome at the end, else a step.

    ``why``: of a failure; at the beginning, the plan's options that a restart must know.
    """

    mark: Mark
    subject: str
    why: str = ""


@dataclass(frozen=True)
class Progress:
    """What a journal amounts to. ``done``, ``undone``: in this process; a restart looks again instead."""

    wish: Wish
    kill_users: bool = False
    owed: frozenset[str] = frozenset()
    started: frozenset[str] = frozenset()
    done: frozenset[str] = frozenset()
    undone: frozenset[str] = frozenset()
    failed: str = ""
    """The step for which the run turned back."""
    passed: frozenset[str] = frozenset()
    """Steps that failed and that the run went on without."""
    stuck: str = ""
    why: str = ""
    ended: Outcome | None = None

    def restarted(self) -> Progress:
        """As another process takes it up."""
        return replace(self, done=frozenset(), undone=frozenset(), passed=frozenset())


@dataclass(frozen=True)
class Do:
    """Do this step next."""

    step: Step


@dataclass(frozen=True)
class Undo:
    """Undo this step next."""

    step: Step


@dataclass(frozen=True)
class End:
    """Nothing is left to do."""

    outcome: Outcome


Move = Do | Undo | End


def replay(records: Sequence[Record]) -> Progress | None:
    """What the records of a journal amount to; None where none begins. Those before the last begin are
    history.
    """
    progress: Progress | None = None
    for record in records:
        if record.mark is Mark.BEGIN:
            progress = Progress(Wish(record.subject), kill_users=record.why == "kill-users")
        elif progress is not None:
            progress = advance(progress, record)
    return progress


def advance(progress: Progress, record: Record) -> Progress:  # noqa: PLR0911 - a mark, a line
    """``progress`` after a record."""
    subject = record.subject
    match record.mark:
        case Mark.OWED:
            return replace(progress, owed=progress.owed | {subject})
        case Mark.STARTED:
            return replace(progress, started=progress.started | {subject})
        case Mark.DONE:
            return replace(progress, done=progress.done | {subject})
        case Mark.FAILED:
            return replace(progress, failed=subject, why=record.why)
        case Mark.UNDONE:
            return replace(progress, undone=progress.undone | {subject})
        case Mark.STUCK:
            return replace(progress, stuck=subject, why="; ".join(filter(None, (progress.why, record.why))))
        case Mark.END:
            return replace(progress, ended=Outcome(subject))
        case Mark.UNDOING | Mark.BEGIN:
            return progress


def beginning(wish: Wish, steps: Sequence[Step], *, kill_users: bool) -> list[Record]:
    """The records with which a run begins."""
    owed = [Record(Mark.OWED, step.name) for step in steps if not step.satisfied]
    return [Record(Mark.BEGIN, wish, "kill-users" if kill_users else ""), *owed]


def done_meanwhile(steps: Sequence[Step], progress: Progress) -> list[Record]:
    """The records for what somebody else did of a way down since it began: the guard, while nobody lived.

    It is undone as the run's own, for what is brought back is the service as it was. On a way up it stays
    theirs.
    """
    if progress.wish not in (Wish.DEMOTE, Wish.HAND_OVER):
        return []
    return [
        Record(Mark.STARTED, step.name)
        for step in steps
        if step.satisfied and step.name in progress.owed - progress.started
    ]


def failure(step: Step, why: str) -> Record | None:
    """The record for a step that failed on every rung; None where the run goes on without it."""
    match step.on_failure:
        case OnFailure.UNDO:
            return Record(Mark.FAILED, step.name, why)
        case OnFailure.HALT:
            return Record(Mark.STUCK, step.name, why)
        case OnFailure.GO_ON:
            return None


def next_move(steps: Sequence[Step], progress: Progress) -> Move:
    """What comes next of a plan that was made from what is observed now."""
    if progress.stuck:
        return End(Outcome.STUCK)
    if not progress.failed:
        for step in steps:
            if step.name not in progress.done | progress.passed and not step.satisfied:
                return Do(step)
        return End(Outcome.DONE)
    for step in reversed(steps):
        if step.name in progress.started and step.name not in progress.undone:
            return Undo(step)
    return End(Outcome.UNDONE)
