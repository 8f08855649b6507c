"""Sees to a ``blockpair.toml`` that is changed while the daemon runs: takes up its ``[health]``, and knows
what of the rest waits for a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from blockpair.config.files import ConfigError
from blockpair.config.health import HealthConfig
from blockpair.config.moments import waiting
from blockpair.config.node import NodeConfig, read_node
from blockpair.status.configuration import node_file_advice
from blockpair.status.report import Advice

_LOOK_SECONDS = 2.0


class NodeFile:
    """``current``: what the daemon was started with; ``adopt``: each has a part of it go by another
    ``[health]``.
    """

    def __init__(
        self, file: Path, current: NodeConfig, adopt: Sequence[Callable[[HealthConfig], None]]
    ) -> None:
        self._file = file
        self._started = current
        self._health = current.health
        self._adopt = adopt
        self._seen: tuple[int, int, int] | None = None
        self.advice: list[Advice] = []
        """What an administrator should know of it, as of the last look."""
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
            found = await asyncio.to_thread(read_node, self._file)
        except (ConfigError, OSError) as error:
            remedy = error.remedy if isinstance(error, ConfigError) else "make it readable"
            self.advice = node_file_advice(self._file, unusable=(str(error), remedy))
            self._log.error(
                "health.misconfigured", text=f"{error}: health goes on by what was read before", remedy=remedy
            )
            return
        # The same in other words, as 10000ms is for 10s, waits for nothing.
        same = replace(found, health=self._started.health) == self._started
        keys = [] if same else waiting(self._started.written, found.written)
        self.advice = node_file_advice(self._file, waiting=keys)
        if found.health != self._health:
            self._health = found.health
            for adopt in self._adopt:
                adopt(found.health)
            self._log.info("health.configured", text=f"[health] of {self._file} is in use as it is now")


def _state(file: Path) -> tuple[int, int, int]:
    """What is another after each writing."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
