"""Cutting a byte stream into lines of bounded length. Pure."""

from __future__ import annotations


class LineTooLong(ValueError):
    """A line went past the limit before its end was seen."""


class LineSplitter:
    """Collects bytes and gives back whole lines, without their newline; holds at most ``limit`` bytes and one
    chunk.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of the unfinished line."""
        return self._held

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes. Raises `LineTooLong` for one of more than ``limit`` bytes."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            if self._held + len(end) > self._limit:
                raise LineTooLong(f"a line has more than {self._limit} bytes")
            self._parts.append(end)
            lines.append(b"".join(self._parts))
            self._parts.clear()
            self._held = 0
        if self._held + len(rest) > self._limit:
            raise LineTooLong(f"a line has more than {self._limit} bytes")
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        return lines
