"""A witness as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import Client
from tests.e2e.cluster import DEADLINE, Done, eventually, free_ports


class WitnessProcess:
    """One below its own directory, at a port that stays the same."""

    def __init__(self, base: Path, name: str = "w") -> None:
        self.dir = base / name
        self.dir.mkdir()
        self.address = Address("127.0.0.1", *free_ports(1))
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: tuple[str, ...] = ()
        """A command that it is started through, and that becomes it."""

    @property
    def state(self) -> Path:
        """Where it keeps what it has."""
        return self.dir / "state/witness"

    @property
    def environment(self) -> dict[str, str]:
        """What its programs run with."""
        return {**os.environ, "BLOCKPAIR_DIR": str(self.dir), "COLUMNS": "200"}

    @property
    def log(self) -> Path:
        """The log of all its processes."""
        return self.dir / "log"

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

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as systemd; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(timeout=DEADLINE)
        self.process = None
        return code

    def cli(self, *arguments: str) -> Done:
        """Run ``blockpair`` on its machine."""
        done = subprocess.run(
            [sys.executable, "-m", "blockpair.cli.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
        return Done(done.returncode, done.stdout, done.stderr)

    def typed(self, text: str, *arguments: str) -> Done:
        """Run ``blockpair`` for a person at a terminal, who types ``text``."""
        terminal, end = pty.openpty()
        try:
            os.write(terminal, text.encode() + b"\n")
            done = subprocess.run(
                [sys.executable, "-m", "blockpair.cli.main", *arguments],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
                stdin=end,
            )
        finally:
            os.close(terminal)
            os.close(end)
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str) -> Done:
        """Run ``blockpair`` and expect it to succeed."""
        done = self.cli(*arguments)
        assert done.code == 0, f"blockpair {' '.join(arguments)}: {done.code}\n{done.out}{done.err}"
        return done
