"""Keeps one kind of event from pushing all others out of a bounded stream. Pure: time in, an answer out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from blockpair.events.event import Event

# A resource that flaps, a peer that is refused again and again: what came first says it all.
MOST = 20
WINDOW_SECONDS = 60.0
_KEYS = 256

Key = tuple[str, str | None, str | None]


@dataclass
class _Window:
    began: float
    count: int = 0
    left_out: int = 0
    last: str = ""


class Damper:
    """Lets `MOST` events of a kind, resource and peer through in `WINDOW_SECONDS`, and counts the others."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Key, _Window] = OrderedDict()

    def passes(self, event: Event, now: float) -> bool:
        """Whether it is to be recorded. ``now``: seconds on a clock that never goes back."""
        key = (event.what, event.resource, event.peer)
        window = self._windows.setdefault(key, _Window(now))
        window.count += 1
        if window.count <= MOST:
            return True
        window.left_out += 1
        window.last = event.text
        return False

    def over(self, now: float) -> list[tuple[Key, int, str]]:
        """The windows that have ended, or have to go: of what each left out something, how many and the last
        one's text.
        """
        ended = [key for key, window in self._windows.items() if now - window.began >= WINDOW_SECONDS]
        going_on = [key for key in self._windows if key not in set(ended)]
        found = []
        for key in ended + going_on[: max(0, len(going_on) - _KEYS)]:
            window = self._windows.pop(key)
            if window.left_out:
                found.append((key, window.left_out, window.last))
        return found

    def due(self) -> float | None:
        """When a window that left out something ends; None: no such."""
        return min(
            (window.began + WINDOW_SECONDS for window in self._windows.values() if window.left_out),
            default=None,
        )
