"""Who heals the arrays of this machine: one program at a time, or two would move the same spare."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

FILE = Path("/run/blockpair/raid.lock")


class Turn:
    """A lock that the kernel takes back however the program ends. A context manager: released at its end."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._descriptor = -1

    def take(self) -> bool:
        """Whether this program may heal: nobody else does. To be asked again, for the other may end. Raises
        `OSError` where the file cannot be made.
        """
        if self._descriptor >= 0:
            return True
        self._file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
