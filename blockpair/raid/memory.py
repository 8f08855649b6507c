"""What is remembered of arrays from one run of a program to the next: a text for each, by UUID, in a file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from blockpair.config.files import write_atomically


class Memory:
    """``file``: None: in this program's memory alone. A file that is damaged, or cannot be written, costs
    what it remembered and nothing else.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known = _read(file)

    def get(self, uuid: str) -> str | None:
        """What is remembered of an array."""
        return self._known.get(uuid)

    def all(self) -> dict[str, str]:
        """All of it."""
        return dict(self._known)

    def set(self, uuid: str, text: str | None) -> None:
        """Remember it; None: forget. Raises `OSError` where it is remembered until the program ends only."""
        if self._known.get(uuid) == text:
            return
        if text is None:
            self._known.pop(uuid, None)
        else:
            self._known[uuid] = text
        if self._file is not None:
            write_atomically(self._file, msgspec.json.encode(self._known).decode(), mode=0o600)


def _read(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
