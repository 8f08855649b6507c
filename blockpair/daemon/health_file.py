"""Takes up a changed ``[health]`` of ``blockpair.toml`` while the daemon runs; the rest of that file is read
when it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from blockpair.config.files import ConfigError
from blockpair.config.health import HealthConfig
from blockpair.config.node import read_node

_LOOK_SECONDS = 2.0


class HealthFile:
    """``current``: what the daemon goes by; ``adopt``: each has a part of it go by another."""

    def __init__(
        self, file: Path, current: HealthConfig, adopt: Sequence[Callable[[HealthConfig], None]]
    ) -> None:
        self._file = file
        self._current = current
        self._adopt = adopt
        self._seen: tuple[int, int, int] | None = None
        self._log = structlog.get_logger().bind(part="health")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Read the file if it was written since the last look. One that cannot be used changes nothing."""
        seen = await asyncio.to_thread(_state, self._file)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            found = (await asyncio.to_thread(read_node, self._file)).health
        except (ConfigError, OSError) as error:
            remedy = error.remedy if isinstance(error, ConfigError) else "make it readable"
            self._log.error(
                "health.misconfigured", text=f"{error}: health goes on by what was read before", remedy=remedy
            )
            return
        if found != self._current:
            self._current = found
            for adopt in self._adopt:
                adopt(found)
            self._log.info("health.configured", text=f"[health] of {self._file} is in use as it is now")


def _state(file: Path) -> tuple[int, int, int]:
    """What is another after each writing."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
