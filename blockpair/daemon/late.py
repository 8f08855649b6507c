"""Resources that could not be started with the daemon, for their disk was not there yet: each is started when
the disk comes, if it is the one that it was. One that was Primary is that again only if it comes soon.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog

from blockpair.config.resource import ResourceConfig
from blockpair.daemon.backing import Backing, another, look_at
from blockpair.daemon.manager import Manager
from blockpair.daemon.runtime import Runtime

_LOOK_SECONDS = 1.0
_PAUSES = (1.0, 4.0, 15.0, 60.0)
"""After a start that failed, for what has just come may be held by who looks what it is; no other follows
until something changes.
"""


@dataclass(frozen=True)
class Tried:
    """A start that failed: with what there was, when, on the clock of `may_try`, and how many failed before
    with the same.
    """

    look: str
    at: float
    failures: int = 0


def may_try(tried: Tried, look: str, now: float) -> bool:
    """Whether to try again, with ``look`` there."""
    if look != tried.look:
        return True
    return tried.failures < len(_PAUSES) and now >= tried.at + _PAUSES[tried.failures]


class Late:
    """Sees to them."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._tried: dict[str, Tried] = {}
        self._began = time.monotonic()
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            waiting = self._manager.unstarted()
            names = {runtime.config.name for runtime in waiting}
            self._tried = {name: tried for name, tried in self._tried.items() if name in names}
            for runtime in waiting:
                try:
                    await self._see_to(runtime)
                except Exception:
                    # The others are seen to all the same.
                    self._log.exception("resource.start-failed", resource=runtime.config.name)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _see_to(self, runtime: Runtime) -> None:
        config = runtime.config
        name = config.name
        now = asyncio.get_running_loop().time()
        device, look = await asyncio.to_thread(_look, config)
        if not device.there:
            # What was tried with one that was there before says nothing of the next.
            self._tried[name] = Tried(look, now)
            return
        tried = self._tried.setdefault(name, Tried(look, now))
        if not may_try(tried, look, now):
            return
        known = await asyncio.to_thread(runtime.disk.get)
        if (failure := another(config, known, device.identity)) is not None:
            runtime.failure = failure
            self._log.error("resource.start-failed", resource=name, text=failure.message)
            self._tried[name] = Tried(look, now, len(_PAUSES))
            return
        self._tried[name] = Tried(look, now, tried.failures + 1 if look == tried.look else 0)
        # It is not given up in the middle where the daemon ends: who stops it waits for it.
        # Whoever uses the kernel device has had errors by then, and a person may have promoted the peer.
        resume = time.monotonic() - self._began < config.dead_connection_timeout
        await asyncio.shield(self._manager.start_late(name, resume=resume))


def _look(config: ResourceConfig) -> tuple[Backing, str]:
    """The device, and what there is of all that a start needs."""
    device = look_at(config.device)
    metadata = "" if config.metadata is None else look_at(config.metadata).look
    # Disks of one kind and size follow each other in one place.
    return device, f"{device.look} {device.identity} {metadata}"
