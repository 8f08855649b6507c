"""The demonstration's two nodes: their configuration, their daemons, and `blockpair` commands run on them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

BIN = Path(__file__).resolve().parent.parent / ".venv/bin"
RESOURCE = "demo"


class DemoFailed(Exception):
    """Something the demonstration promises did not hold; the message says what."""


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code, and its output when that was captured."""

    code: int
    output: str
    seconds: float


def wait_for(what: str, seconds: float, ready: Callable[[], bool]) -> None:
    """Polls `ready` until it holds; raises `DemoFailed` naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """TCP ports nobody uses on loopback now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Witness:
    """The third machine's program: it says who may go on."""

    def __init__(
        self, folder: Path, console: Console, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.console = console
        self.prefix = prefix
        [self.port] = free_ports(1)
        self.address = f"{host}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "BLOCKPAIR_DIR": str(self.folder)}

    def start(self) -> None:
        """Starts it and returns when it answers."""
        self.folder.mkdir(exist_ok=True)
        command = [str(BIN / "blockpair"), "witness", "serve", "--listen", self.address]
        with (self.folder / "witness.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.prefix, *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self.process
        shown = f"blockpair witness serve --listen {self.address} &"
        self.console.print(f"  [dim]w#[/] {shown}  [dim]pid {process.pid}[/]", highlight=False)

        def answers() -> bool:
            if process.poll() is not None:
                raise DemoFailed(f"the witness ended at once:\n{(self.folder / 'witness.log').read_text()}")
            return self._blockpair("status").returncode == 0

        wait_for("the witness answers", 20, answers)

    def join(self, address: str, token: str) -> None:
        """Has it serve the cluster of the node at `address`."""
        self.console.print(f"  [dim]w#[/] [bold]blockpair witness join {address} -[/]", highlight=False)
        done = self._blockpair("join", address, "-", text=token)
        if done.returncode != 0:
            raise DemoFailed(f"'blockpair witness join' exited with {done.returncode}: {done.stderr}")

    def _blockpair(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "blockpair", "witness", *arguments],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def stop(self) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None


@dataclass
class Node:
    """One node: a folder with its configuration, state and backing file, and the daemon that runs on it."""

    name: str
    folder: Path
    console: Console
    # What the daemon is started through, such as `nsenter`; it becomes the daemon.
    prefix: Sequence[str] = ()
    daemon: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def backing(self) -> Path:
        return self.folder / "backing.img"

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata.img"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "BLOCKPAIR_DIR": str(self.folder)}

    def configure(self, host: str, port: int, control_port: int) -> None:
        """Writes blockpair.toml: the node's name, and where other nodes dial it."""
        folder = self.folder / "config"
        folder.mkdir()
        # Programs go through the Unix socket export, which every machine has.
        (folder / "blockpair.toml").write_text(
            f'[node]\nname = "{self.name}"\nlisten = "{host}:{port}"\ncontrol = "{host}:{control_port}"\n'
            'kernel_device = "off"\n'
        )

    def start(self) -> None:
        """Starts the daemon and returns when it answers."""
        with self.log.open("ab") as log:
            # The daemon ends with this program even when that is killed; Ctrl-C reaches only this program.
            self.daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.prefix, str(BIN / "blockpaird")],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        daemon = self.daemon
        self.console.print(f"  [dim]{self.name}#[/] blockpaird &  [dim]pid {daemon.pid}[/]", highlight=False)

        def answers() -> bool:
            if daemon.poll() is not None:
                raise DemoFailed(f"blockpaird of node {self.name} ended at once:\n{self.log_tail()}")
            return self.quiet("status", "--json").code != 5

        wait_for(f"node {self.name}'s daemon answers", 15, answers)

    def kill(self) -> None:
        """kill -9, as a crash would."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()

    def stop(self) -> None:
        """Asks the daemon to end; kills it when it has not within ten seconds."""
        if self.daemon is None or self.daemon.poll() is not None:
            return
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self) -> str:
        """The last lines of the daemon's log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def quiet(self, *arguments: str, text: str = "") -> Finished:
        """Runs `blockpair` with these arguments on this node, shows nothing, and returns what came of it."""
        began = time.monotonic()
        done = subprocess.run(
            [BIN / "blockpair", *arguments],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Finished(done.returncode, done.stdout + done.stderr, time.monotonic() - began)

    def run(self, *arguments: str, code: int = 0, text: str = "") -> Finished:
        """Shows and runs a `blockpair` command on this node, its output on the terminal. It reads `text`.

        Raises `DemoFailed` unless it exits with `code`.
        """
        self.console.print(
            f"  [dim]{self.name}#[/] [bold]blockpair {shlex.join(arguments)}[/]", highlight=False
        )
        began = time.monotonic()
        done = subprocess.run(
            [BIN / "blockpair", *arguments],
            env=self.environment,
            input=text,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != code:
            raise DemoFailed(
                f"'blockpair {shlex.join(arguments)}' on node {self.name} exited with {done.returncode},"
                f" not {code}; its daemon's log ends:\n{self.log_tail()}"
            )
        return Finished(done.returncode, "", time.monotonic() - began)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Shows and runs a `blockpair` command on this node; what it answers, which is not shown."""
        self.console.print(
            f"  [dim]{self.name}#[/] [bold]blockpair {shlex.join(arguments)}[/]", highlight=False
        )
        return dict(json.loads(self.succeed(*arguments, "--json")))

    def succeed(self, *arguments: str, text: str = "") -> str:
        """Runs a `blockpair` command on this node, shows nothing, returns what it printed. It reads `text`.

        Raises `DemoFailed` unless it succeeds.
        """
        done = self.quiet(*arguments, text=text)
        if done.code != 0:
            raise DemoFailed(
                f"'blockpair {shlex.join(arguments)}' on node {self.name} exited with {done.code}:"
                f" {done.output.strip()}\nIts daemon's log ends:\n{self.log_tail()}"
            )
        return done.output

    def report(self) -> dict[str, Any]:
        """What `blockpair status --json` says of the resource."""
        done = self.quiet("status", RESOURCE, "--json")
        try:
            document = json.loads(done.output)
        except json.JSONDecodeError:
            raise DemoFailed(f"'blockpair status --json' on node {self.name} said: {done.output}") from None
        for resource in document["resources"]:
            if resource["name"] == RESOURCE:
                return dict(resource)
        raise DemoFailed(f"node {self.name} knows no resource {RESOURCE}")

    def status(self) -> dict[str, Any]:
        """The engine's part of the report; raises `DemoFailed` when the resource is not running."""
        report = self.report()
        if report["engine"] is None:
            raise DemoFailed(f"{RESOURCE} on node {self.name} is {report['state']}: {report['failure']}")
        return dict(report["engine"])

    def wait_for_in_sync_set(self) -> None:
        """Waits until the witness has both nodes as good for taking over."""

        def entered() -> bool:
            state = self.status()["arbitration"]
            return bool(state and state["configuration"] and len(state["configuration"]["in_sync"]) == 2)

        wait_for("both nodes are in the in-sync set", 15, entered)

    def peer(self) -> dict[str, Any]:
        """The status of this node's only peer."""
        return dict(self.status()["peers"][0])
