"""The node's health in the daemon: measured, smoothed, told, and asked of peers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from blockpair.config.health import HealthConfig
from blockpair.daemon.health import EVERY_SECONDS, HealthWatch
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.health.handover import Policy
from blockpair.health.level import Level, follow
from blockpair.health.score import Reading
from blockpair.health.sensors import Measured, Sensors
from blockpair.rpc.messages import NoParams


class Given(Sensors):
    """Sensors that see what the test says."""

    cpu = 0.0

    def look(self) -> Measured:
        return Measured((Reading("cpu", self.cpu),), ("clock: not here",))


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.sensors = Given()
        self.lacking: list[tuple[str, int]] = []
        self.answer: Any = BlockpairError(ErrorKind.UNREACHABLE, "b cannot be reached")

        async def lacking() -> list[tuple[str, int]]:
            return self.lacking

        async def call(node: str, method: str, params: Any) -> Any:
            assert (node, method) == ("b", "peer.health")
            if isinstance(self.answer, BlockpairError):
                raise self.answer
            return self.answer

        self.watch = HealthWatch(
            "a",
            HealthConfig(),
            lacking=lacking,
            peers=lambda: ["b"],
            call=call,
            sensors=self.sensors,
            clock=lambda: self.now,
        )

    async def pass_by(self, seconds: float) -> list[dict[str, Any]]:
        with capture_logs() as told:
            for _ in range(int(seconds / EVERY_SECONDS)):
                self.now += EVERY_SECONDS
                await self.watch.look()
        return [dict(one) for one in told]


def test_a_level_wavers_less_than_the_score_and_is_sick_between_its_bounds() -> None:
    policy = Policy()
    level: Level | None = None
    seen = []
    for second in range(0, 600, 5):
        score = 30.0 if 100 <= second < 300 else 100.0
        level = follow(level, policy, score, float(second))
        seen.append((second, level.sick))
    changes = [second for (second, sick), (_, before) in zip(seen[1:], seen, strict=False) if sick != before]
    assert len(changes) == 2 and 120 <= changes[0] <= 160 and 310 <= changes[1] <= 345
    # A first look says little.
    assert not follow(follow(None, policy, 0.0, 0.0), policy, 0.0, 5.0).sick


def test_it_tells_when_the_node_becomes_sick_and_when_it_is_well_again() -> None:
    world = World()

    async def go() -> list[list[dict[str, Any]]]:
        found = [await world.pass_by(300)]
        world.sensors.cpu = 100.0
        found.append(await world.pass_by(300))
        world.sensors.cpu = 0.0
        found.append(await world.pass_by(300))
        return found

    well, sick, again = asyncio.run(go())
    assert well == []
    assert [(one["event"], one["log_level"]) for one in sick] == [("health.sick", "warning")]
    assert "cpu: 100 %" in sick[0]["why"] and "a is sick" in sick[0]["text"]
    assert [one["event"] for one in again] == ["health.recovered"]


def test_what_it_reports_of_itself_and_of_its_peer() -> None:
    world = World()
    with pytest.raises(BlockpairError, match="nothing was measured yet"):
        world.watch.own()
    assert asyncio.run(world.watch.report()).own.score == 100.0
    world = World()
    assert world.watch.score() is None
    world.lacking = [("r0", 8 << 30)]

    async def go() -> None:
        await world.pass_by(60)
        own = world.watch.own()
        assert own.node == "a" and own.unseen == ["clock: not here"] and own.hand_over
        assert own.parts[0].name == "lag r0" and own.score == own.smoothed == 50.0
        assert (await world.watch.report()).peers[0].problem == "b cannot be reached"
        method = world.watch.peer_methods()["peer.health"]
        world.answer = msgspec.to_builtins(await method.run("b", NoParams()))
        assert (await world.watch.report()).peers[0].health == own
        world.answer = {"score": "high"}
        assert "another form" in str((await world.watch.report()).peers[0].problem)
        assert world.watch.score() == 50.0
        # A sampler that hangs: nobody decides by what it saw long ago.
        world.now += Policy().stale + 1
        assert world.watch.score() is None

    asyncio.run(go())
