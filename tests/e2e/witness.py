"""A witness as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import Client
from tests.e2e.cluster import Done, Program, eventually, free_ports


class WitnessProcess(Program):
    """One below its own directory, at a port that stays the same."""

    def __init__(self, base: Path, name: str = "w") -> None:
        super().__init__(name, base)
        self.address = Address("127.0.0.1", *free_ports(1))

    @property
    def state(self) -> Path:
        """Where it keeps what it has."""
        return self.dir / "state/witness"

    def launch(self) -> None:
        """Start it; does not wait for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    "-m",
                    "blockpair.cli.main",
                    "witness",
                    "serve",
                    "--listen",
                    str(self.address),
                ],
                env=self.environment,
                stderr=log,
            )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        process = self.process
        assert process is not None

        def answers() -> bool:
            assert process.poll() is None, f"the witness ended:\n{self.log.read_text()}"
            try:
                self.status()
            except BlockpairError as error:
                if error.kind is not ErrorKind.NO_DAEMON:
                    raise
                return False
            return True

        eventually(answers, "the witness answers")

    def status(self) -> Any:
        """What it says of itself."""
        with Client(self.dir / "run/witness.sock") as client:
            return json.loads(client.call_raw("witness.status", {}))

    def typed(self, text: str, *arguments: str) -> Done:
        """Run ``blockpair`` for a person at a terminal, who types ``text``."""
        terminal, end = pty.openpty()
        try:
            os.write(terminal, text.encode() + b"\n")
            return self.cli(*arguments, stdin=end)
        finally:
            os.close(terminal)
            os.close(end)
