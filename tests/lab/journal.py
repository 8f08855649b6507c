"""What the programs of a guest tell the outside while they run: lines that outlive it, each with its time.

A program writes lines to the terminal `TERMINAL`, which is a pipe to the test: a line is out before the
program goes on, whatever happens to its guest next.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

TERMINAL = "/dev/tty2"


@dataclass(frozen=True)
class Line:
    """One line and when it came, in seconds of the test's own monotonic clock, not of a guest's."""

    at: float
    text: str


class Journal:
    """The lines of one guest, over all its lives."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._lines)

    def since(self, first: int) -> list[Line]:
        """All lines from number ``first`` on."""
        with self._lock:
            return self._lines[first:]

    def listen(self, source: int) -> None:
        """Take in lines until the other end of the pipe closes. A last line without its end is left out."""
        rest = b""
        with os.fdopen(source, "rb", buffering=0) as pipe:
            while data := pipe.read(1 << 16):
                now = time.monotonic()
                *whole, rest = (rest + data).split(b"\n")
                with self._lock:
                    self._lines += [Line(now, line.decode(errors="replace")) for line in whole]
