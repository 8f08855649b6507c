"""What an event is delivered to, in general; and when it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from blockpair.events.event import Event

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0
# What is not delivered within a day is no news any more.
GIVE_UP_SECONDS = 24 * 3600.0


class NotDelivered(Exception):
    """Why an event was not delivered. ``again``: whether the same may succeed later."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.why = why
        self.again = again


class Target(Protocol):
    """Takes events, one after the other, in a thread of its own. ``name``: of its kind, and which."""

    @property
    def name(self) -> str: ...

    def wants(self, event: Event) -> bool:
        """Whether ``event`` is to be sent."""

    def place(self) -> str:
        """Where it delivers to, for a person; no secrets."""

    def send(self, event: Event, ended: Callable[[], bool]) -> None:
        """Deliver ``event``, in bounded time; early, and undelivered, once ``ended`` is so. Raises
        `NotDelivered`.
        """


def reason(error: Exception) -> str:
    """What an error of the network, or of a protocol on it, says; its name where it says nothing."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def secret(file: Path) -> str:
    """The one line of a file. Raises `NotDelivered`."""
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise NotDelivered(f"{file} cannot be read: {why}", again=True) from None
    if not text or not text.isprintable():
        raise NotDelivered(f"{file} does not hold one line of text", again=True)
    return text


def attempt(target: Target, event: Event, ended: Callable[[], bool]) -> NotDelivered | None:
    """Deliver ``event`` to ``target``; what went wrong, whatever that is: one delivery is not to end all that
    follow.
    """
    try:
        target.send(event, ended)
    except NotDelivered as error:
        return error
    except Exception as error:
        return NotDelivered(f"an error that was not expected: {type(error).__name__}: {error}", again=False)
    return None


def pause(failures: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds before the next attempt, after so many ``failures`` in a row: doubled each time, up to five
    minutes; a fifth of it is left to chance, lest all nodes of a fleet come back at once.
    """
    whole = min(_LONGEST_PAUSE, _FIRST_PAUSE * float(2 ** min(failures - 1, 16)))
    return whole * (0.8 + 0.2 * chance())
