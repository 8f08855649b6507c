"""The journal of a run: a line a record, durable before the step that it announces.

It lies beside the sockets, where a restart of the machine leaves nothing: neither mounts nor addresses nor
roles survive that, and a journal that did would speak of another life.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.progress import Mark, Record

_MAX_BYTES = 1 << 20


class Journal:
    """Append-only within a run; a run begins with a new file. Not for two processes at once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> list[Record]:
        """The records of the last run; a last line that is not whole was never acted on and is left out.

        Raises `BlockpairError` where the file is no journal.
        """
        try:
            with self._file.open("rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}") from None
        if len(data) > _MAX_BYTES:
            raise self._unusable(f"is larger than {_MAX_BYTES} bytes")
        found = []
        for line in data.split(b"\n")[:-1]:
            try:
                mark, subject, why = json.loads(line)
                found.append(Record(Mark(mark), str(subject), str(why)))
            except (ValueError, TypeError):
                raise self._unusable(f"has a line that is no record: {line[:80]!r}") from None
        return found

    def begin(self, records: Sequence[Record]) -> None:
        """Start a new journal with these records, in place of the old one. Raises `OSError`."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f".{self._file.name}.new")
        _write(temporary, records, os.O_TRUNC)
        temporary.replace(self._file)

    def append(self, record: Record) -> None:
        """Add a record, durably. Raises `OSError`."""
        _write(self._file, [record], os.O_APPEND)

    def _unusable(self, reason: str) -> BlockpairError:
        return BlockpairError(
            ErrorKind.DAMAGED,
            f"{self._file} {reason}",
            "look at what is mounted and which addresses are there, then remove the file",
        )


def _write(file: Path, records: Sequence[Record], flag: int) -> None:
    text = "".join(json.dumps([record.mark, record.subject, record.why]) + "\n" for record in records)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
    try:
        data = text.encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
