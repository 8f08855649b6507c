"""Two blockpair nodes on this machine, set up and driven by the commands that an administrator uses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .host import BenchFailed, Server, free_ports, unix_listening, wait_for
from .peers import Export

RESOURCE = "race"
BIN = Path(os.environ.get("BLOCKPAIR_BIN") or Path(sys.executable).parent)


class Node:
    """One node: its folder (BLOCKPAIR_DIR), backing file, daemon."""

    def __init__(
        self, name: str, folder: Path, backing: Path, ports: tuple[int, int], environment: Mapping[str, str]
    ) -> None:
        if not (BIN / "blockpaird").exists():
            raise BenchFailed(f"blockpair is not installed in {BIN}; run scripts/setup, or set BLOCKPAIR_BIN")
        self.name = name
        self.backing = backing
        self.port, self.control_port = ports
        self._folder = folder
        self._environment = {"BLOCKPAIR_DIR": str(folder), **environment}
        config = folder / "config"
        config.mkdir(parents=True)
        # The races go through the Unix socket, which every machine has.
        (config / "blockpair.toml").write_text(
            f'[node]\nname = "{name}"\nlisten = "127.0.0.1:{self.port}"\n'
            f'control = "127.0.0.1:{self.control_port}"\nkernel_device = "off"\n'
        )
        self._daemon: Server | None = None

    @property
    def pid(self) -> int:
        if self._daemon is None:
            raise BenchFailed(f"node {self.name} is not started")
        return self._daemon.pid

    @property
    def socket(self) -> Path:
        """The NBD export; there only while the node is Primary."""
        return self._folder / "run/nbd" / f"{RESOURCE}.sock"

    def start(self) -> None:
        """Starts the daemon and returns when it answers."""
        control = self._folder / "run/blockpaird.sock"
        self._daemon = Server(
            [BIN / "blockpaird"],
            self._folder / "daemon.log",
            lambda: unix_listening(control),
            self._environment,
        )

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def kill(self) -> None:
        """The daemon is gone at once, with all that it had in memory."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def configure(self, key: str, value: str) -> None:
        """Sets a key of the resource's file; it counts from the next `up` on."""
        file = self._folder / "config/resources" / f"{RESOURCE}.toml"
        lines = [line for line in file.read_text().splitlines() if not line.startswith(f"{key} = ")]
        file.write_text("\n".join([f'{key} = "{value}"', *lines]) + "\n")

    def run(self, *arguments: str) -> float:
        """Runs `blockpair ARGUMENTS`; returns its seconds. Raises `BenchFailed` unless it exits with 0."""
        began = time.monotonic()
        done = self._blockpair(*arguments)
        seconds = time.monotonic() - began
        if done.returncode != 0:
            raise BenchFailed(
                f"'blockpair {' '.join(arguments)}' on node {self.name} exited with {done.returncode}:"
                f" {(done.stderr or done.stdout).strip()[-600:]}"
            )
        return seconds

    def told(self, *arguments: str) -> Any:
        """What `blockpair ARGUMENTS --json` says. Raises `BenchFailed` unless it exits with 0."""
        done = self._blockpair(*arguments, "--json")
        if done.returncode != 0:
            raise BenchFailed(f"'blockpair {' '.join(arguments)}' on node {self.name}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def _blockpair(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "blockpair", *arguments],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def engine(self) -> dict[str, Any]:
        """The engine's part of `blockpair status --json`, whose exit code tells of degradation only."""
        done = self._blockpair("status", RESOURCE, "--json")
        try:
            resources = json.loads(done.stdout)["resources"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise BenchFailed(
                f"'blockpair status --json' on node {self.name} said: {done.stdout}{done.stderr}"
            ) from None
        for resource in resources:
            if resource["name"] == RESOURCE:
                if resource["engine"] is None:
                    raise BenchFailed(f"{RESOURCE} is {resource['state']} on node {self.name}")
                return dict(resource["engine"])
        raise BenchFailed(f"node {self.name} knows no resource {RESOURCE}")

    def peer(self) -> dict[str, Any]:
        """What this node knows of its only peer."""
        return dict(self.engine()["peers"][0])


class Pair:
    """Two nodes `a` and `b` with one resource between them; protocol C, external metadata."""

    def __init__(
        self,
        folder: Path,
        backing_a: Path,
        backing_b: Path,
        name: str = "blockpair",
        environment: Mapping[str, str] | None = None,
        *,
        tls: bool = False,
    ) -> None:
        self.name = name
        self._tls = tls
        self.copies: tuple[Path, ...] = (backing_a, backing_b)
        port_a, port_b, control_a, control_b = free_ports(4)
        self.a = Node("a", folder / "a", backing_a, (port_a, control_a), environment or {})
        self.b = Node("b", folder / "b", backing_b, (port_b, control_b), environment or {})
        self.nodes = (self.a, self.b)

    @contextlib.contextmanager
    def daemons(self) -> Iterator[None]:
        """Both daemons, as long as the block lasts."""
        try:
            for node in self.nodes:
                node.start()
            yield
        finally:
            for node in self.nodes:
                node.stop()

    def create(self) -> None:
        """Creates the resource on both nodes: metadata that never had data. With TLS, in a cluster."""
        if self._tls:
            self.a.run("cluster", "init", "race")
            token = self.a.told("cluster", "token")["text"]
            self.b.run("cluster", "join", f"127.0.0.1:{self.a.control_port}", token)
            copies = ",".join(f"{node.name}={node.backing}" for node in self.nodes)
            self.a.run("create", RESOURCE, "--on", copies, "--no-up")
            return
        for node, peer in ((self.a, self.b), (self.b, self.a)):
            node.run(
                *("create", RESOURCE, "--device", str(node.backing)),
                *("--peer", f"{peer.name}=127.0.0.1:{peer.port}"),
            )

    def up(self) -> None:
        """Brings the resource up on both nodes and returns when they are connected."""
        for node in self.nodes:
            node.run("up", RESOURCE)
        self._until("both nodes connected", lambda peer: peer["connection"] == "Connected")

    def down(self) -> None:
        for node in self.nodes:
            node.run("down", RESOURCE)

    def sync_from_a(self) -> float:
        """The first full sync, from `a`; returns the seconds that the command took."""
        return self.a.run("sync", RESOURCE, "--from", "a", "--wait")

    def up_to_date(self) -> None:
        """Returns when replication is established with both disks UpToDate."""
        self._until(
            "both copies UpToDate",
            lambda peer: peer["replication"] == "Established" and peer["disk"] == "UpToDate",
        )

    def _until(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        wait_for(what, 30, lambda: all(holds(node.peer()) for node in self.nodes))

    @contextlib.contextmanager
    def running(self) -> Iterator[Export]:
        """The resource up, replicating, and Primary on `a`; down again afterwards. The daemons must run."""
        self.up()
        try:
            self.up_to_date()
            self.a.run("promote", RESOURCE)
            wait_for("the export of node a", 10, self.a.socket.is_socket)
            yield Export(f"nbd+unix:///{RESOURCE}?socket={self.a.socket}", (self.a.pid, self.b.pid))
            self.a.run("demote", RESOURCE)
        finally:
            self.down()
