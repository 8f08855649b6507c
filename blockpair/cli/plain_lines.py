"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Generic, TypeVar

_EVERY_SECONDS = 2.0
_Report = TypeVar("_Report")


class PlainLines(Generic[_Report]):
    """Prints on standard error what ``words`` says of a report, where that is new, and not too often; None
    says nothing.
    """

    def __init__(self, clock: Callable[[], float], words: Callable[[_Report], str | None]) -> None:
        self._clock = clock
        self._words = words
        self._next = 0.0
        self._last = ""

    def __enter__(self) -> PlainLines[_Report]:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, report: _Report) -> None:
        """How it stands now."""
        now, line = self._clock(), self._words(report)
        if line is not None and now >= self._next and line != self._last:
            self._next, self._last = now + _EVERY_SECONDS, line
            print(line, file=sys.stderr, flush=True)
