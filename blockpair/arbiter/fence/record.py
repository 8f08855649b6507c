"""A node's own record of a resource's configuration, for where nobody else keeps one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from blockpair.arbiter.interface import ArbiterRefused, Configuration, Key, configuration
from blockpair.config.files import sync_directory, write_atomically

_MAX_BYTES = 16 << 10
_PART = re.compile(r"[0-9a-f][0-9a-f-]{0,63}", re.ASCII)


class Records:
    """The records below ``directory``: a file a resource. A write is durable when it returns."""

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
            document = json.loads(content)
            if not isinstance(document, dict):
                raise ValueError("it is not a JSON object")
            return configuration({name: item for name, item in document.items() if name != "name"})
        except (ValueError, RecursionError) as error:
            raise ArbiterRefused(
                f"the record of {key.name} is damaged: {file}: {error or 'nested too deeply'}; remedy: move "
                "that file away; once both nodes are connected, it is written anew"
            ) from None

    def write(self, key: Key, new: Configuration) -> None:
        """Replace it durably. Raises `ArbiterRefused`; then it is the old or the new one."""
        file = self.file(key)
        text = json.dumps({**new.document(), "name": key.name}, indent=2)
        try:
            if not file.parent.is_dir():
                file.parent.mkdir(parents=True)
                sync_directory(self._directory)
                sync_directory(self._directory.parent)
            write_atomically(file, f"{text}\n", mode=0o600)
        except OSError as error:
            raise ArbiterRefused(
                f"the record of {key.name} cannot be written: {file}: {error.strerror}; remedy: see that the "
                "disk has space and may be written"
            ) from None
