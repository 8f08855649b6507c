"""The last audit of a node, in a file of its state."""

from __future__ import annotations

from pathlib import Path

import msgspec

from blockpair.audit.outcome import AuditRecord
from blockpair.config.files import write_atomically
from blockpair.errors import BlockpairError, ErrorKind


def load(file: Path) -> AuditRecord | None:
    """What was written last; None where nothing was. Raises `BlockpairError` if it cannot be understood."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=AuditRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BlockpairError(
            ErrorKind.DAMAGED,
            f"what the last audit found, {file}, cannot be read: {error}",
            "remove it; the next audit writes it anew",
        ) from None


def save(file: Path, record: AuditRecord) -> None:
    """Durable when it returns. Raises `OSError`."""
    write_atomically(file, msgspec.json.encode(record).decode() + "\n")
