"""How often something may be told. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Throttle:
    """Lets ``limit`` things through in any ``window_seconds`` and counts the others."""

    limit: int
    window_seconds: float
    _began: float = float("-inf")
    _told: int = 0
    _held_back: int = 0

    def admit(self, now: float) -> int | None:
        """How many were held back since the last one let through; None if this one is held back too."""
        if now - self._began >= self.window_seconds:
            self._began, self._told = now, 0
        if self._told >= self.limit:
            self._held_back += 1
            return None
        self._told += 1
        held_back, self._held_back = self._held_back, 0
        return held_back
