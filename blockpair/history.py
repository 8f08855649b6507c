"""Reads the durable history of a resource on this node, which the engine writes: a JSON object a line."""

from __future__ import annotations

from pathlib import Path

import msgspec

# The engine begins a new file at 1 MiB; more than twice that is not its file.
_MAX_BYTES = 4 << 20


class HistoryEntry(msgspec.Struct, frozen=True):
    """A decision, or what came of it. ``time``: RFC 3339 in UTC; ``what``: stable, dotted; ``by``: who
    asked for it, where somebody did; ``fields``: inputs and outcomes by stable names.
    """

    time: str
    node: str
    what: str
    text: str
    by: str | None = None
    peer: str | None = None
    fields: dict[str, str] = {}


_ENTRY = msgspec.json.Decoder(HistoryEntry)


def parse_history(content: bytes) -> list[HistoryEntry]:
    """The entries in ``content``, oldest first; a line that a crash has torn is left out."""
    found = []
    for line in content.split(b"\n"):
        try:
            found.append(_ENTRY.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return found


def read_history(file: Path, limit: int | None = None) -> list[HistoryEntry]:
    """The last ``limit`` entries (None: all that are kept), oldest first; none where nothing was written yet.
    Raises `OSError`.
    """
    older = file.with_name(file.name + ".1")
    found = [entry for part in (older, file) for entry in parse_history(_tail(part))]
    return found if limit is None else found[max(0, len(found) - limit) :]


def _tail(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _MAX_BYTES))
            return stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return b""
