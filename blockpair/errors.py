"""The one error that crosses the daemon's and the CLI's borders, and what each kind of it means for an exit
code.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of ``blockpair`` and ``blockpaird``."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    UNSAFE = 3
    DEGRADED = 4
    NO_DAEMON = 5


class ErrorKind(StrEnum):
    """What went wrong, for programs. The engine's kinds have the same names."""

    FAILED = "failed"
    UNSAFE = "unsafe"
    INVALID = "invalid"
    IN_USE = "in_use"
    NO_METADATA = "no_metadata"
    DAMAGED = "damaged"
    NEWER = "newer"
    MISMATCH = "mismatch"
    IO = "io"
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    CONFIG = "config"
    TIMEOUT = "timeout"
    USAGE = "usage"
    NO_DAEMON = "no_daemon"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    """Somebody else is changing it at this moment."""
    NOT_PERMITTED = "not_permitted"
    INTERNAL = "internal"


_EXIT_CODES = {
    ErrorKind.UNSAFE: ExitCode.UNSAFE,
    ErrorKind.IN_USE: ExitCode.UNSAFE,
    ErrorKind.USAGE: ExitCode.USAGE,
    ErrorKind.NO_DAEMON: ExitCode.NO_DAEMON,
}


def kind_of(name: str) -> ErrorKind:
    """The kind of that name; one this version does not know counts as `ErrorKind.FAILED`."""
    try:
        return ErrorKind(name)
    except ValueError:
        return ErrorKind.FAILED


def nearest(wrong: str, right: Iterable[str]) -> str | None:
    """The one of ``right`` that ``wrong`` may be a typing mistake for; None where none is near."""
    # Costly to import, and rarely wanted.
    import difflib

    found = difflib.get_close_matches(wrong, list(right), n=1, cutoff=0.7)
    return found[0] if found else None


class BlockpairError(Exception):
    """A refusal or failure that a person can act on: what and why in ``message``, what to do: ``remedy``."""

    def __init__(self, kind: ErrorKind, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.remedy = remedy

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this error."""
        return _EXIT_CODES.get(self.kind, ExitCode.FAILED)
