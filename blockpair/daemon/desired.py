"""What shall be, kept on disk: a daemon that is killed at any moment comes back to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from blockpair.config.files import read_state, sync_directory, write_atomically
from blockpair.errors import BlockpairError, ErrorKind

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Desired(Struct, frozen=True):
    """What shall be of one resource: up or down, and the peers that were disconnected by command."""

    up: bool = False
    disconnected: list[str] = field(default_factory=list)


class _Content(Struct):
    schema: Literal["blockpair.desired/1"] = "blockpair.desired/1"
    resources: dict[str, Desired] = field(default_factory=dict)


class DesiredState:
    """The desired state of all resources; each change is durable when `set` or `forget` returns."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content = _Content()

    def load(self) -> None:
        """Read what an earlier daemon left. Raises `BlockpairError` if it cannot be understood."""
        subject = f"the daemon's state file {self._file}"
        remedy = "move it away and bring the resources up again: `blockpair up NAME`"
        self._content = read_state(self._file, _Content, subject, remedy) or _Content()

    def get(self, name: str) -> Desired:
        """What shall be of a resource; down if nothing was ever said."""
        return self._content.resources.get(name, Desired())

    def set(self, name: str, desired: Desired) -> None:
        """Write down what shall be of a resource. Raises `OSError`."""
        self._write({**self._content.resources, name: desired})

    def forget(self, name: str) -> None:
        """Drop a resource. Raises `OSError`."""
        self._write({key: value for key, value in self._content.resources.items() if key != name})

    def _write(self, resources: dict[str, Desired]) -> None:
        if resources != self._content.resources:
            content = _Content(resources=resources)
            write_atomically(self._file, msgspec.json.format(msgspec.json.encode(content)).decode() + "\n")
            self._content = content


def boot_id() -> str:
    """The kernel's id of this boot."""
    return _BOOT_ID.read_text().strip()


def _remove(file: Path) -> None:
    """Durable; nothing where there is none."""
    if file.exists():
        file.unlink()
        sync_directory(file.parent)


class BootMarker:
    """Says something of a resource, in this boot only: that this node is Primary, so that its daemon, killed
    and restarted, resumes; or that it has met its peer.
    """

    def __init__(self, file: Path, boot: str) -> None:
        self._file = file
        self._boot = boot

    def set(self) -> None:
        """Durable: the run directory may be on a disk where it was moved. Raises `OSError`."""
        write_atomically(self._file, self._boot + "\n")

    def clear(self) -> None:
        """Raises `OSError`."""
        _remove(self._file)

    def is_set(self) -> bool:
        """Whether it was set in this boot."""
        try:
            return self._file.read_text().strip() == self._boot
        except OSError:
            return False


class DeviceMarker:
    """The identity of the kernel device that serves a resource: a restarted daemon serves that one on, and
    none that an earlier time as Primary has left mounted, with what it has cached of data that are of the
    past.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self, identity: str) -> None:
        """Durable. Raises `OSError`."""
        write_atomically(self._file, identity + "\n")

    def get(self) -> str | None:
        """None where no device is to be served on. Raises `OSError`."""
        try:
            return self._file.read_text().strip() or None
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """Raises `OSError`."""
        _remove(self._file)


class DiskMarker:
    """Which disk a resource had when it was up last: another one in its place is not started by itself."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def note(self, identity: str | None) -> None:
        """Durable; None where nothing tells one disk from another. Raises `OSError`."""
        if identity is None:
            self.clear()
        elif self.get() != identity:
            write_atomically(self._file, identity + "\n")

    def get(self) -> str | None:
        """What was noted last; None where that is not known."""
        try:
            return self._file.read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def clear(self) -> None:
        """Raises `OSError`."""
        _remove(self._file)


class StaleMarker:
    """The generation of this node's copy when a peer went on from there, while the metadata might not say so:
    they must not be believed, should they come back to life and still call it the newest.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self, generation: str) -> None:
        """Durable. Raises `OSError`."""
        write_atomically(self._file, generation + "\n")

    def get(self) -> str | None:
        """What was set last; it means nothing to a copy that has another generation by now. Raises
        `BlockpairError`.
        """
        try:
            return self._file.read_text().strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise BlockpairError(
                ErrorKind.DAMAGED,
                f"{self._file}, which may say that this copy is not the newest, cannot be read: {error}",
                "make it readable; to take this copy for good all the same, remove it",
            ) from None

    def clear(self) -> None:
        """Raises `OSError`."""
        _remove(self._file)


class DaemonLock:
    """Held for the daemon's life; the kernel releases it however the daemon ends."""

    def __init__(self, file: Path) -> None:
        import fcntl

        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise BlockpairError(
                ErrorKind.IN_USE,
                f"a blockpaird already runs in {file.parent}" + (f" (pid {owner})" if owner else ""),
                "use that one, stop it first, or set BLOCKPAIR_DIR to run a second node",
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it up; the file stays, or a third daemon could lock another of the same name."""
        os.close(self._descriptor)
