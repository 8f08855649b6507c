"""The supervision of the resources, without any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from blockpair import _engine
from blockpair.arbiter.interface import Arbiter
from blockpair.config.locations import locations
from blockpair.config.node import NodeFile, node_config
from blockpair.daemon.desired import DesiredState
from blockpair.daemon.judges import Judges
from blockpair.daemon.manager import Manager
from blockpair.daemon.watchdog import NodeWatchdog


class _Stirred(Manager):
    """Whose resources are stirred by the test, as by their engines."""

    def stir(self) -> None:
        self._stir("r0")


@pytest.mark.parametrize("turns", range(6))
def test_the_end_that_comes_together_with_an_event_is_not_forgotten(tmp_path: Path, turns: int) -> None:
    async def scenario() -> None:
        node = node_config(NodeFile(), tmp_path / "blockpair.toml", "a")
        manager = _Stirred(
            node,
            locations(directory=str(tmp_path)),
            DesiredState(tmp_path / "desired"),
            "boot",
            cast(_engine.Listener, None),
            judges=Judges(cast(Callable[[object], Arbiter], None)),
            watchdog=NodeWatchdog(node.watchdog),
        )
        task = asyncio.create_task(manager.supervise())
        await asyncio.sleep(0)
        manager.stir()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        task.cancel()
        assert done and task.cancelled()

    asyncio.run(scenario())
