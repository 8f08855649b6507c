"""The records of the resources on this node, a file each in the state directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from blockpair.config.files import read_state, sync_directory, write_atomically
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.verify.record import Record

_SCHEMA = "blockpair.verify/1"
_REMEDY = "move it away; the next `blockpair verify` begins a new one"


class _File(msgspec.Struct):
    schema: str
    record: Record


def load(file: Path) -> Record | None:
    """What was written last; None where nothing was. Raises `BlockpairError` if it cannot be understood."""
    subject = f"the record of what was verified, {file},"
    content = read_state(file, _File, subject, _REMEDY)
    if content is None:
        return None
    record = content.record
    regions = -(-record.size // record.region_bytes) if record.region_bytes > 0 else 0
    if content.schema != _SCHEMA or record.size <= 0 or len(record.proved) != regions:
        why = "it is of another version, or its numbers do not fit"
        raise BlockpairError(ErrorKind.DAMAGED, f"{subject} cannot be read: {why}", _REMEDY)
    return record


def save(file: Path, record: Record) -> None:
    """Durable when it returns. Raises `OSError`."""
    write_atomically(file, msgspec.json.encode(_File(_SCHEMA, record)).decode() + "\n")


def remove(file: Path) -> None:
    """Durable; nothing where there is none. Raises `OSError`."""
    if file.exists():
        file.unlink()
        sync_directory(file.parent)
