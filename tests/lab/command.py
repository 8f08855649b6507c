"""Commands in a guest: how the harness asks for them, hears of their end and reads what they printed.

Requests go and answers come over two pipes, a line each, as `guest_init.sh` has them; scripts and output are
files in a folder that host and guest share.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class LabError(RuntimeError):
    """A guest, or a command in it, did not do what the test asked for."""


class CommandFailed(LabError):
    """A command in a guest ended with another code than 0."""

    def __init__(self, guest: str, command: str, result: Result) -> None:
        super().__init__(
            f"guest {guest}: {command!r} ended with {result.returncode}\n"
            f"stdout: {result.stdout[-2000:]}\nstderr: {result.stderr[-2000:]}"
        )
        self.result = result


class CommandTimeout(LabError):
    """A command in a guest took longer than the test allows."""


class GuestDied(LabError):
    """The guest's kernel ended (crashed, halted or lost its power) while something was expected of it."""


@dataclass(frozen=True)
class Result:
    """How a command ended: exit code (128 + number for a signal) and all it printed."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command running in a guest, in a process group of its own."""

    def __init__(self, guest: str, boot: Boot, ident: str, text: str) -> None:
        self._guest, self._boot, self._ident, self.text = guest, boot, ident, text

    def _file(self, suffix: str) -> str:
        return (self._boot.share / f"{self._ident}.{suffix}").read_text(errors="replace")

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._file("out")

    @property
    def stderr(self) -> str:
        """What it has printed to standard error so far."""
        return self._file("err")

    @property
    def running(self) -> bool:
        return self._ident not in self._boot.done and self._boot.alive

    @property
    def pid(self) -> int:
        """The process id inside the guest."""
        self._boot.until(lambda: self._ident in self._boot.pids, 20, f"start of {self.text!r}")
        return self._boot.pids[self._ident]

    def signal(self, name: str = "KILL") -> None:
        """Send a signal (``"TERM"``, ``"KILL"`` …) to the command and all its children."""
        self._boot.ask(f"signal {self.pid} {name}")

    def wait(self, timeout: float = 60, check: bool = True) -> Result:
        """Wait for its end. Raises `CommandTimeout` (and kills it), `CommandFailed` when ``check``."""
        try:
            self._boot.until(lambda: self._ident in self._boot.done, timeout, repr(self.text))
        except CommandTimeout as error:
            if self._ident in self._boot.pids:  # a frozen guest has not even started it
                self.signal("KILL")
            raise CommandTimeout(
                f"guest {self._guest}: {error}\nstdout: {self.stdout[-2000:]}\nstderr: {self.stderr[-2000:]}"
            ) from None
        result = Result(self._boot.done[self._ident], self.stdout, self.stderr)
        if check and result.returncode:
            raise CommandFailed(self._guest, self.text, result)
        return result

    def wait_output(self, text: str, timeout: float = 60) -> None:
        """Wait until it has printed ``text`` to standard output."""
        deadline = time.monotonic() + timeout
        while text not in self.stdout:
            if not self.running and text not in self.stdout:
                raise LabError(f"{self.text!r} ended without printing {text!r}: {self.stdout}{self.stderr}")
            if time.monotonic() > deadline:
                raise CommandTimeout(
                    f"{self.text!r} did not print {text!r} within {timeout:g} s: {self.stdout}"
                )
            time.sleep(0.01)


@dataclass
class Boot:
    """One life of a guest, from power on to power off."""

    process: subprocess.Popen[bytes]
    requests: int
    share: Path
    release: str = ""
    alive: bool = True
    pids: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    started: int = 0

    def listen(self, answers: int) -> None:
        """Take in the guest's answers until its end of the pipe closes."""
        with os.fdopen(answers, "r", errors="replace") as lines:
            for line in lines:
                words = line.split()
                with self.changed:
                    match words:
                        case ["ready", release]:
                            self.release = release
                        case ["pid", ident, pid]:
                            self.pids[ident] = int(pid)
                        case ["done", ident, code]:
                            self.done[ident] = int(code)
                    self.changed.notify_all()
        with self.changed:
            self.alive = False
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: condition() or not self.alive, timeout):
                raise CommandTimeout(f"{what}: not within {timeout:g} s")
            if not condition():
                raise GuestDied(f"{what}: the guest's kernel has ended")

    def ask(self, line: str) -> None:
        try:
            os.write(self.requests, line.encode() + b"\n")
        except BrokenPipeError:
            raise GuestDied(f"{line}: the guest's kernel has ended") from None
