"""`Lock`: one audit at a time in the cluster. Each node has one; an audit holds those of all nodes that can
be reached, and takes them in the order of their names, so that of two that begin at once one gets them all.
It ends with its holder: whoever does not renew it has it no more.
"""

from __future__ import annotations

from collections.abc import Callable

LASTS_SECONDS = 20.0


class Lock:
    """``clock``: seconds that only go forward."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._holder: tuple[str, str] | None = None
        self._until = 0.0

    def claim(self, node: str, word: str) -> str | None:
        """Have it, or have it longer, for the audit of ``node`` that calls itself ``word``; otherwise, the
        node whose audit has it.
        """
        now = self._clock()
        if self._holder not in (None, (node, word)) and now < self._until:
            assert self._holder is not None
            return self._holder[0]
        self._holder, self._until = (node, word), now + LASTS_SECONDS
        return None

    def release(self, node: str, word: str) -> None:
        """Let go of it; nothing where another has it."""
        if self._holder == (node, word):
            self._holder = None
