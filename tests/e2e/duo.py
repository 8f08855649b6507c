"""Two nodes and no third: each can switch the other off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Node, eventually
from tests.e2e.fence import AGENT
from tests.e2e.trio import Trio


class Duo(Trio):
    """As `Trio`, with fencing in the witness's place: the power of a node is its daemon's life."""

    def __init__(self, base: Path, *, wired: bool = False) -> None:
        super().__init__(base, wired=wired)
        self.agent = base / "fence_test"
        shutil.copy(AGENT, self.agent)
        self.agent.chmod(0o755)
        self.head_start = {"a": "60s", "b": "0s"}
        self.modes = {"a": "works", "b": "works"}

    def begin(self) -> None:
        """The cluster, without an arbiter yet."""
        if self._wired:
            self.wire()
        self.cluster.start()
        self.a.ok("cluster", "init", "test")
        token = self.a.rpc("cluster.token")["text"]
        address = ("--address", "127.0.0.2") if self._wired else ()
        self.b.ok("cluster", "join", f"127.0.0.1:{self.a.control}", token, *address)

    def form(self) -> None:
        self.begin()
        self.arbitrate()

    def arbitrate(self) -> None:
        """Make fencing the arbiter, or change it."""
        settings = ["arbiter.kind=fence"]
        for node in self.cluster.nodes:
            self.plugged(node)
            settings += [
                f"fence.{node.name}.delay={self.head_start[node.name]}",
                f"fence.{node.name}.levels=[[{self.device(node)}]]",
            ]
        self.a.ok("config", "edit", *(word for setting in settings for word in ("--set", setting)))

    def device(self, node: Node) -> str:
        """The fence device of a node, as TOML."""
        options = {
            "pid_file": str(self.pid_file(node)),
            "log": str(self.log(node)),
            "mode": self.modes[node.name],
        }
        table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
        return f'{{ agent = "{self.agent}", timeout = "20s", options = {{ {table} }} }}'

    def pid_file(self, node: Node) -> Path:
        """Says which process is the node."""
        return node.dir / "power.pid"

    def log(self, node: Node) -> Path:
        """What the device of the node was asked for."""
        return node.dir / "power.log"

    def plugged(self, node: Node) -> None:
        """The node as it runs now is what its device feeds."""
        assert node.process is not None
        self.pid_file(node).write_text(str(node.process.pid))

    def switched_off(self, node: Node) -> bool:
        """Whether the node was ever fenced."""
        asked = self.log(node).read_text().splitlines() if self.log(node).exists() else []
        return any(json.loads(line)["input"].startswith("action=off\n") for line in asked)

    def boot(self, node: Node) -> None:
        """Start it as after a power cut: nothing of its run directory is left."""
        node.kill()
        for marker in (node.dir / "run/met").glob("*"):
            marker.unlink()
        node.launch()
        self.plugged(node)
        node.await_daemon()

    def synced(self, profile: str = "default", *options: str) -> None:
        super().synced(profile, *options)
        eventually(lambda: self.met(self.a) and self.met(self.b), "both have met")

    def met(self, node: Node) -> bool:
        """Whether the node remembers that it has met its peer."""
        return (node.dir / "run/met/r0").exists()

    def record(self, node: Node) -> Any:
        """The node's own record of r0's configuration."""
        [file] = (node.dir / "state/fence").glob("*/*.json")
        return json.loads(file.read_text())
