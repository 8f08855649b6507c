"""The guided tour, deed by deed, on whatever stage: what is done, tried again, looked at and told."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from tour import Deed, Step

from tests.lab.command import LabError, Result

_TIMEOUT_S = 180.0
_BETWEEN_TRIES_S = 0.3


class NotSeen(LabError):
    """A deed did not end as the tour says."""


class Stage(ABC):
    """Three machines with blockpair on them, and hands that reach their cables, disks and switches.

    ``words``: what the tour's words in braces mean here; ``patience``: how many times slower than usual they
    may be.
    """

    words: dict[str, str]
    patience = 1.0

    @abstractmethod
    def execute(self, machine: str, command: str, timeout: float) -> Result:
        """Run a bash command as root, to its end. Raises `LabError` after ``timeout`` seconds."""

    @abstractmethod
    def act(self, deed: Deed) -> None:
        """Do what is no command. Raises `LabError`."""

    def carry_out(self, deed: Deed) -> None:
        """Do it and look. Raises `NotSeen`, `LabError`."""
        if deed.act:
            self.act(deed)
            return
        command = deed.command(self.words)
        deadline = time.monotonic() + deed.within_s * self.patience
        while True:
            result = self.execute(deed.machine, command, _TIMEOUT_S * self.patience)
            seen = re.search(deed.see, result.stdout + result.stderr)
            if seen is not None and result.returncode == deed.code:
                break
            if time.monotonic() > deadline:
                raise NotSeen(_told(deed, command, result))
            time.sleep(_BETWEEN_TRIES_S)
        if deed.keep:
            self.words[deed.keep] = seen[1]


@dataclass(frozen=True)
class Outcome:
    """Of a step: how long it took; the deed that went wrong, if one did, and what there was instead."""

    title: str
    seconds: float
    wrong: str = ""
    why: str = ""


def perform(tour: Iterable[Step], stage: Stage, console: Console) -> list[Outcome]:
    """Each step in its order, up to the first that goes wrong; says how long each deed took."""
    outcomes: list[Outcome] = []
    for number, step in enumerate(tour, start=1):
        began = time.monotonic()
        console.print(f"\n[bold]{number}. {step.title}[/]")
        for deed in step.deeds:
            at = time.monotonic()
            told = deed.told(stage.words)
            try:
                # Seen on a terminal: one can take a minute on a busy machine.
                with console.status(escape(told)):
                    stage.carry_out(deed)
            except LabError as error:
                console.print(f"[red]failed[/]   {escape(told)}", highlight=False)
                return [*outcomes, Outcome(step.title, time.monotonic() - began, told, str(error))]
            seconds = time.monotonic() - at
            console.print(f"[green]{seconds:5.1f} s[/]  {escape(told)}", highlight=False)
        outcomes.append(Outcome(step.title, time.monotonic() - began))
    return outcomes


def _told(deed: Deed, command: str, result: Result) -> str:
    wanted = f"{deed.code}" + (f" and {deed.see!r}" if deed.see else "")
    said = (result.stdout + result.stderr).strip()[-2000:]
    return f"on {deed.machine}: {command}\nended with {result.returncode}, expected {wanted}:\n{said}"
