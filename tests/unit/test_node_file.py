"""A blockpair.toml that is changed while the daemon runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from blockpair.config.health import HealthConfig
from blockpair.config.node import read_node
from blockpair.daemon.node_file import NodeFile


def test_what_is_written_is_taken_up_and_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "blockpair.toml"
    adopted: list[HealthConfig] = []
    also: list[HealthConfig] = []
    watch = NodeFile(file, read_node(file), (adopted.append, also.append))

    def told() -> list[tuple[str, str]]:
        """What it advises, and the key that this names."""
        known = ("node.name", "health.recovered_above", "metrics.listen")
        return [(one.code, next(key for key in known if key in one.text)) for one in watch.advice]

    async def looks(text: str | None) -> list[str]:
        """The events of two looks after the file was written so."""
        if text is not None:
            file.write_text(text)
        with capture_logs() as logged:
            await watch.look()
            await watch.look()
        return [one["event"] for one in logged]

    async def go() -> None:
        assert await looks(None) == []
        assert watch.advice == []
        # What is not of health waits.
        assert await looks('[node]\nname = "a"\n') == []
        assert told() == [("node-settings", "node.name")]
        # The same in other words does not.
        assert await looks('[watchdog]\ntimeout = "10000ms"\n') == []
        assert read_node(file) == read_node(tmp_path / "none") and watch.advice == []
        assert await looks('[health]\nhand_over = "off"\n') == ["health.configured"]
        assert adopted == also == [read_node(file).health] and not adopted[0].hand_over
        assert watch.advice == []
        assert await looks("[health]\nsick_below = 99\n") == ["health.misconfigured"]
        assert told() == [("node-misconfigured", "health.recovered_above")]
        assert await looks("[health\n") == ["health.misconfigured"]
        assert await looks('[metrics]\nlisten = "x"\n') == ["health.misconfigured"]
        assert told() == [("node-misconfigured", "metrics.listen")]
        assert await looks('[health]\nhand_over = "off"\n') == []
        assert len(adopted) == 1 and watch.advice == []
        file.unlink()
        assert await looks(None) == ["health.configured"]
        assert adopted[1:] == [HealthConfig()]

    asyncio.run(go())
