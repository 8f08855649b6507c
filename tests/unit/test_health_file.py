"""A changed [health] of blockpair.toml while the daemon runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from blockpair.config.health import HealthConfig
from blockpair.config.node import read_node
from blockpair.daemon.health_file import HealthFile


def test_what_is_written_is_taken_up_and_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "blockpair.toml"
    adopted: list[HealthConfig] = []
    also: list[HealthConfig] = []
    watch = HealthFile(file, HealthConfig(), (adopted.append, also.append))

    async def looks(text: str | None) -> list[str]:
        """The events of two looks after the file was written so."""
        if text is not None:
            file.write_text(text)
        with capture_logs() as told:
            await watch.look()
            await watch.look()
        return [one["event"] for one in told]

    async def go() -> None:
        assert await looks(None) == []
        # What is not of health is none of its business.
        assert await looks('[node]\nname = "a"\n') == []
        assert await looks('[health]\nhand_over = "off"\n') == ["health.configured"]
        assert adopted == also == [read_node(file).health] and not adopted[0].hand_over
        assert await looks("[health]\nsick_below = 99\n") == ["health.misconfigured"]
        assert await looks("[health\n") == ["health.misconfigured"]
        assert await looks('[health]\nhand_over = "off"\n') == []
        assert len(adopted) == 1
        file.unlink()
        assert await looks(None) == ["health.configured"]
        assert adopted[1:] == [HealthConfig()]

    asyncio.run(go())
