"""Structured logs on standard error: JSON, a record a line, or text for a person."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from blockpair.config.node import LogFormat, LogLevel
from blockpair.secrecy import redacted

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
Record = MutableMapping[str, Any]
_listeners: list[Callable[[Record], None]] = []


@contextlib.contextmanager
def heard(listener: Callable[[Record], None]) -> Iterator[None]:
    """Have ``listener`` hear every record from level info on, whatever the log leaves out; by any thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def set_up(form: LogFormat, level: LogLevel) -> None:
    """Configure logging; ``auto`` writes text to a terminal and JSON to anything else."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without local variables, which may be keys: a record of a crash is passed on to strangers.
        structlog.processors.ExceptionRenderer()
        if console
        else structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        hide_secrets,
        _hear,
        _from(_LEVELS[level]),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(min(_LEVELS[level], _LEVELS["info"])),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def _hear(_logger: Any, _method: str, record: Record) -> Record:
    for listener in list(_listeners):
        listener(record)
    return record


def _from(least: int) -> Callable[[Any, str, Record], Record]:
    def keep(_logger: Any, _method: str, record: Record) -> Record:
        if _LEVELS.get(record.get("level", ""), _LEVELS["error"]) < least:
            raise structlog.DropEvent
        return record

    return keep


def hide_secrets(_logger: Any, _method: str, record: Record) -> Record:
    """Before a record is written, or heard: no key and no join token gets past it."""
    hidden: dict[str, Any] = redacted(record)
    return hidden


def place(unit: str = "blockpaird") -> str:
    """Where the log can be read, for a person."""
    if os.environ.get("JOURNAL_STREAM"):
        return f"journalctl -u {unit}"
    try:
        target = Path("/proc/self/fd/2").readlink()
    except OSError:
        return f"{unit}'s standard error"
    return str(target) if target.is_file() else f"{unit}'s standard error"
