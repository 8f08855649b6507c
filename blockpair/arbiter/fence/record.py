"""A node's own record of a resource's configuration, for where nobody else keeps one."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from blockpair.arbiter.interface import ArbiterRefused, Configuration, Key, configuration
from blockpair.config.files import sync_directory, write_atomically

# A daemon has its directories to itself, but more than one thread.
_WRITING = threading.Lock()
_MAX_BYTES = 16 << 10
_PART = re.compile(r"[0-9a-f][0-9a-f-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class _Record:
    """``bound``: this node has told the other that it need not be fenced, for it changes nothing."""

    configuration: Configuration
    bound: bool = False


class Records:
    """The records below ``directory``: a file a resource. What was written is durable."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def file(self, key: Key) -> Path:
        """Where the record of a resource is. Raises `ValueError` for a key that is none."""
        for part in (key.cluster, key.resource_id):
            if _PART.fullmatch(part) is None:
                raise ValueError(f"{part!r:.80} identifies neither a cluster nor a resource")
        return self._directory / key.cluster / f"{key.resource_id}.json"

    def read(self, key: Key) -> Configuration | None:
        """What it says; None: there is none. Raises `ArbiterRefused`."""
        found = self._load(key)
        return None if found is None else found.configuration

    def swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """Replace it by ``new`` if it is ``expected``; whether it was. Raises `ArbiterRefused`."""
        with _WRITING:
            found = self._load(key)
            if (None if found is None else found.configuration) != expected:
                return False
            if found is not None and found.bound:
                raise ArbiterRefused(bound_text(key))
            self._write(key, _Record(new))
            return True

    def advance(self, key: Key, known: Configuration) -> bool:
        """Replace it by ``known`` if that has a higher epoch; whether it has. Raises `ArbiterRefused`, also
        where two configurations have one epoch.
        """
        with _WRITING:
            found = self._load(key)
            if found is None or found.configuration.epoch < known.epoch:
                self._write(key, _Record(known))
                return True
        held = found.configuration
        if held.epoch == known.epoch and held != known:
            raise ArbiterRefused(
                f"epoch {held.epoch} of {key.name} is {held.document()} in this node's record and "
                f"{known.document()} to its engine; remedy: find out which node has the newest data, and "
                f"there: blockpair promote {key.name} --force"
            )
        return False

    def bind(self, key: Key) -> int | None:
        """Bind this node to change nothing while the record stands; the record's epoch, or None where there
        is no record. Raises `ArbiterRefused`.
        """
        with _WRITING:
            found = self._load(key)
            if found is None:
                return None
            if not found.bound:
                self._write(key, _Record(found.configuration, bound=True))
            return found.configuration.epoch

    def release(self, key: Key, epoch: int | None) -> None:
        """End that, if the record is of ``epoch``. Raises `ArbiterRefused`."""
        with _WRITING:
            found = self._load(key)
            if found is not None and found.bound and found.configuration.epoch == epoch:
                self._write(key, _Record(found.configuration))

    def is_bound(self, key: Key) -> bool:
        """Whether this node is bound. Raises `ArbiterRefused`."""
        found = self._load(key)
        return found is not None and found.bound

    def _load(self, key: Key) -> _Record | None:
        file = self.file(key)
        try:
            with file.open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArbiterRefused(
                f"the record of {key.name} cannot be read: {file}: {error.strerror}; remedy: mend that disk"
            ) from None
        try:
            if len(content) > _MAX_BYTES:
                raise ValueError(f"it has more than {_MAX_BYTES} bytes")
            return _parsed(json.loads(content))
        except (ValueError, RecursionError) as error:
            raise ArbiterRefused(
                f"the record of {key.name} is damaged: {file}: {error or 'nested too deeply'}; remedy: move "
                "that file away; once both nodes are connected, it is written anew"
            ) from None

    def _write(self, key: Key, record: _Record) -> None:
        file = self.file(key)
        document = {**record.configuration.document(), "name": key.name, "bound": record.bound}
        try:
            if not file.parent.is_dir():
                file.parent.mkdir(parents=True)
                sync_directory(self._directory)
                sync_directory(self._directory.parent)
            write_atomically(file, json.dumps(document, indent=2) + "\n", mode=0o600)
        except OSError as error:
            raise ArbiterRefused(
                f"the record of {key.name} cannot be written: {file}: {error.strerror}; remedy: see that the "
                "disk has space and may be written"
            ) from None


def bound_text(key: Key) -> str:
    """Why a node that is bound changes nothing."""
    return (
        f"this node has given its word to be left out of {key.name} until the two nodes have met; remedy: "
        f"start the other node; if it is gone for good: blockpair promote {key.name} --force"
    )


def _parsed(document: object) -> _Record:
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    bound = document.get("bound", False)
    if not isinstance(bound, bool):
        raise ValueError("bound is neither true nor false")
    named = {name: item for name, item in document.items() if name not in ("name", "bound")}
    return _Record(configuration(named), bound)
