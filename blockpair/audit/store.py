"""The last audit of a node, in a file of its state."""

from __future__ import annotations

from pathlib import Path

import msgspec

from blockpair.audit.outcome import AuditRecord
from blockpair.config.files import read_state, write_atomically


def load(file: Path) -> AuditRecord | None:
    """What was written last; None where nothing was. Raises `BlockpairError` if it cannot be understood."""
    subject = f"what the last audit found, {file},"
    return read_state(file, AuditRecord, subject, "remove it; the next audit writes it anew")


def save(file: Path, record: AuditRecord) -> None:
    """Durable when it returns. Raises `OSError`."""
    write_atomically(file, msgspec.json.encode(record).decode() + "\n")
