"""Exports of bundles: each lives as long as the call that holds it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from blockpair import bundles
from blockpair.bundles import Exported
from blockpair.config.locations import check_socket_path
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind

# Who has started an export takes hold of it at once; one that nobody holds ends.
_UNHELD_SECONDS = 10.0


class Exports:
    """The bundles that are being served."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._numbers = itertools.count(1)
        # Of exports that are not held yet: the resource, the bundle, and the timer that ends it.
        self._unheld: dict[str, tuple[str, Path, asyncio.TimerHandle]] = {}
        # The bundles that somebody holds, by socket.
        self._held: dict[str, Path] = {}

    async def start(self, which: str) -> Exported:
        """Serve a bundle over its resource's present device. Raises `BlockpairError`."""
        path = await asyncio.to_thread(bundles.find, self._manager.places, which)
        bundle = await asyncio.to_thread(bundles.read, path, verify=False)
        name = bundle.facts.resource
        running = self._manager.runtime(name).engine()
        # No resource's name has this character.
        socket = self._manager.places.nbd_socket(f"export@{name}.{next(self._numbers)}")
        check_socket_path(socket)
        # The daemon's lock is held: one that is there was left by a daemon that was killed.
        await asyncio.to_thread(socket.unlink, missing_ok=True)
        changed = await asyncio.to_thread(running.export_bundle, path, socket)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_UNHELD_SECONDS, self._drop, name, socket)
        self._unheld[str(socket)] = name, path, timer
        return Exported(str(socket), bundle, changed)

    async def hold(self, socket: str) -> None:
        """Keep an export until the caller is cancelled, or its resource is taken down. Raises
        `BlockpairError`.
        """
        waiting = self._unheld.pop(socket, None)
        if waiting is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND, f"no export on {socket} waits to be held", "start one: bundle.export"
            )
        name, bundle, timer = waiting
        timer.cancel()
        self._held[socket] = bundle
        try:
            runtime = self._manager.runtime(name)
            while runtime.running:
                await runtime.changed.wait()
        finally:
            self._drop(name, Path(socket))

    def check_unheld(self, path: Path) -> None:
        """Raises `BlockpairError` while the bundle at ``path`` is exported."""
        if any(served.resolve() == path.resolve() for served in self._held.values()):
            raise BlockpairError(
                ErrorKind.IN_USE,
                f"the bundle {path} is being exported",
                "unmount what was mounted of it, end its `blockpair bundle export`, then try again",
            )

    def _drop(self, name: str, socket: Path) -> None:
        self._unheld.pop(str(socket), None)
        self._held.pop(str(socket), None)
        try:
            running = self._manager.runtime(name).engine()
        except BlockpairError:
            # With its engine the export has ended.
            return
        # A read of a disk that hangs keeps its thread, not the daemon's other work.
        asyncio.get_running_loop().run_in_executor(None, running.end_export, socket)
