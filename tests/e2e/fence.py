"""Fence devices for tests: the agent of `tests/agents` with a file or a process as the power that it cuts."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockpair.arbiter.fence import Known
from blockpair.arbiter.interface import Configuration, Key
from blockpair.config.fence import Device, NodeFence

AGENT = Path(__file__).parent.parent / "agents" / "fence_test"


class PowerDevice:
    """A device below ``base`` that feeds something that is on."""

    def __init__(self, base: Path, name: str = "power", *, timeout: float = 20.0) -> None:
        self.agent = base / "fence_test"
        if not self.agent.exists():
            shutil.copy(AGENT, self.agent)
            # A checkout may leave it open to a group.
            self.agent.chmod(0o755)
        self.state = base / f"{name}.state"
        self.state.write_text("on")
        self.log = base / f"{name}.log"
        self.timeout = timeout
        self.secret: Path | None = None

    def device(self, mode: str = "works", **options: str) -> Device:
        """It, with an agent of this mode."""
        given = {"state_file": str(self.state), "mode": mode, "log": str(self.log), **options}
        secrets = () if self.secret is None else (("password", self.secret),)
        return Device(str(self.agent), tuple(given.items()), secrets, self.timeout)

    def fence(self, mode: str = "works", delay: float = 0.0, **options: str) -> NodeFence:
        """One level, with it alone."""
        return NodeFence(((self.device(mode, **options),),), delay)

    def calls(self) -> list[dict[str, Any]]:
        """What the agent was started with, each time."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def actions(self) -> list[str]:
        """Which actions it was asked for."""
        return [call["input"].splitlines()[0].removeprefix("action=") for call in self.calls()]

    @property
    def is_off(self) -> bool:
        """Whether the power is cut."""
        return self.state.read_text() == "off"


@dataclass(frozen=True)
class Alone:
    """A node that reaches nobody, as its arbiter's `Pair`."""

    met: bool

    async def known(self, key: Key) -> Known:
        """Nothing but its own record."""
        return Known((), self.met)

    async def tell(self, key: Key, entered: Configuration) -> None:
        """Nobody hears it."""
