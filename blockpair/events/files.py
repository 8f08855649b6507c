"""The stream on the disk: files of lines, each named after the number of its first event. One process writes,
any may read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from blockpair.config.files import sync_directory
from blockpair.events.event import Event, decode, encode

# Some 12 000 events of 350 bytes.
FILE_BYTES = 1 << 20
FILES = 4
_SUFFIX = ".jsonl"
_DIGITS = 16
_MODE = 0o640


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The files with the number that each begins with, oldest first; none where nothing was written yet.
    Raises `OSError`.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a glob finds nothing where it may not look
    except FileNotFoundError:
        return []
    found = [re.fullmatch(rf"(\d{{{_DIGITS}}}){re.escape(_SUFFIX)}", name, re.ASCII) for name in names]
    return sorted((int(match[1]), folder / match[0]) for match in found if match is not None)


def _file(folder: Path, first: int) -> Path:
    return folder / f"{first:0{_DIGITS}d}{_SUFFIX}"


def load(path: Path) -> list[Event]:
    """The whole events of a file, oldest first; none where it has made room meanwhile. Raises `OSError`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [event for line in content.split(b"\n")[:-1] if (event := decode(line)) is not None]


class Writer:
    """Appends to the stream; at most one at a time. What a crash has torn at its end is cut off: ``torn``
    says how many bytes. Raises `OSError`.
    """

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES, files: int = FILES) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._files = files
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.torn = 0
        self.last = 0
        """The number of the last event that is stable."""
        self._descriptor = -1
        self._length = 0
        self._open()

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Number and write ``events``; they are stable when this returns. Raises `OSError`, and then none of
        them is recorded.
        """
        if self._descriptor < 0:
            self._open()
        if self._length >= self._file_bytes:
            self._rotate()
        numbered = [
            msgspec.structs.replace(event, seq=self.last + 1 + index) for index, event in enumerate(events)
        ]
        data = b"".join(map(encode, numbered))
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._length + written)
            os.fdatasync(self._descriptor)
        except OSError:
            # What the file holds now is looked at anew, by the next one.
            self._cut(self._length)
            self.close()
            raise
        self._length += len(data)
        if numbered:
            self.last = numbered[-1].seq
        return numbered

    def close(self) -> None:
        """Let the file go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        found = segments(self._folder)
        if not found:
            self._begin(self.last + 1)
            return
        first, path = found[-1]
        content = path.read_bytes()
        whole, last = _whole(content)
        self.last = max(self.last, first - 1 if last is None else last.seq)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._length = whole
        if whole < len(content):
            self.torn += len(content) - whole
            os.ftruncate(self._descriptor, whole)
        # Who wrote it may have been killed before it was stable.
        os.fsync(self._descriptor)

    def _begin(self, first: int) -> None:
        path = _file(self._folder, first)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        self._length = 0
        sync_directory(self._folder)

    def _rotate(self) -> None:
        self.close()
        self._begin(self.last + 1)
        for _, path in segments(self._folder)[: -self._files]:
            path.unlink(missing_ok=True)

    def _cut(self, length: int) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, length)


def _whole(content: bytes) -> tuple[int, Event | None]:
    """Where the last whole event of a file ends, and that event."""
    end = content.rfind(b"\n") + 1
    while end:
        begin = content.rfind(b"\n", 0, end - 1) + 1
        event = decode(content[begin : end - 1])
        if event is not None:
            return end, event
        end = begin
    return 0, None


@dataclass(frozen=True)
class _Place:
    """Where a reader is: in the file that begins with ``first``, before ``offset``."""

    first: int
    offset: int


class Reader:
    """Reads events in order, those after the number ``after``, and goes on with what is written meanwhile."""

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._folder = folder
        self._place: _Place | None = None
        self.after = after
        """The number of the last event that was given."""

    def read(self, most: int, upto: int | None = None) -> list[Event]:
        """The next events, ``most`` at most, none after the number ``upto``; none where there is nothing new.
        Where some are gone for want of room, it goes on with the oldest that is there. Raises `OSError`.
        """
        found: list[Event] = []
        for event, place in self._events():
            if len(found) >= most or (upto is not None and event.seq > upto):
                break
            self._place = place
            if event.seq > self.after:
                self.after = event.seq
                found.append(event)
        return found

    def _events(self) -> Iterator[tuple[Event, _Place]]:
        files = segments(self._folder)
        place = self._place
        if place is None or place.first < (files[0][0] if files else 0):
            begun = [first for first, _ in files if first <= self.after + 1]
            place = _Place(begun[-1] if begun else (files[0][0] if files else 0), 0)
        for first, path in files:
            if first < place.first:
                continue
            at = place if first == place.first else _Place(first, 0)
            try:
                with path.open("rb") as stream:
                    stream.seek(at.offset)
                    content = stream.read()
            except FileNotFoundError:
                # It made room meanwhile.
                continue
            begin = 0
            while (end := content.find(b"\n", begin)) >= 0:
                event = decode(content[begin:end])
                begin = end + 1
                if event is not None:
                    yield event, replace(at, offset=at.offset + begin)
