"""What membership asks of the keeper of the cluster's configuration, and the simplest keeper."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from blockpair.config.cluster import ClusterFile, cluster_text, parse_cluster
from blockpair.config.files import sync_directory, write_atomically
from blockpair.errors import BlockpairError, ErrorKind


class Configuration(Protocol):
    """The configuration of this node's cluster."""

    def current(self) -> ClusterFile | None:
        """What holds now; None in no cluster. From memory."""

    def version(self) -> str:
        """What holds now, in a word for a person; two nodes with the same have the same configuration."""

    def export(self) -> Any:
        """Everything that a joining node needs of it, as JSON."""

    async def load(self) -> None:
        """Read what is on the disk. Raises `BlockpairError`."""

    async def found(self, content: ClusterFile, *, why: str) -> None:
        """Begin a new one. Raises `BlockpairError`."""

    async def adopt(self, exported: Any) -> None:
        """Take the one that a member exported. Raises `BlockpairError`."""

    async def change(self, edit: Callable[[ClusterFile], ClusterFile], *, why: str) -> None:
        """Change it in the whole cluster. Raises `BlockpairError`, and then nothing was changed."""

    async def forget(self) -> None:
        """This node is in no cluster any more. Raises `BlockpairError`."""


class FileConfiguration:
    """A file, changed here alone."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: ClusterFile | None = None

    def current(self) -> ClusterFile | None:
        """See `Configuration`, as for all below."""
        return self._content

    def version(self) -> str:
        return "" if self._content is None else hashlib.sha256(self.export().encode()).hexdigest()[:12]

    def export(self) -> Any:
        return "" if self._content is None else cluster_text(self._content)

    async def load(self) -> None:
        try:
            text = await asyncio.to_thread(self._file.read_text)
        except FileNotFoundError:
            self._content = None
        except (OSError, UnicodeDecodeError) as error:
            raise BlockpairError(
                ErrorKind.CONFIG, f"{self._file} cannot be read: {error}", "correct its mode or content"
            ) from None
        else:
            self._content = parse_cluster(text, self._file)

    async def found(self, content: ClusterFile, *, why: str) -> None:
        await self._write(content)

    async def adopt(self, exported: Any) -> None:
        await self._write(parse_cluster(str(exported), self._file))

    async def change(self, edit: Callable[[ClusterFile], ClusterFile], *, why: str) -> None:
        assert self._content is not None
        await self._write(edit(self._content))

    async def forget(self) -> None:
        await asyncio.to_thread(self._file.unlink, missing_ok=True)
        await asyncio.to_thread(sync_directory, self._file.parent)
        self._content = None

    async def _write(self, content: ClusterFile) -> None:
        text = cluster_text(content)
        parse_cluster(text, self._file)
        try:
            await asyncio.to_thread(write_atomically, self._file, text)
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO,
                f"{self._file} cannot be written: {error.strerror}",
                "make room or correct its mode",
            ) from None
        self._content = content
