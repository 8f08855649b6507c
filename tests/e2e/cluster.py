"""Two nodes on this machine: real daemons, the real command line, files as disks, loopback between them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import Client

DEADLINE = 30.0
_POLL = 0.02


# Below those that the kernel gives to connections: a daemon that is down for a time finds its port again.
# Processes that run tests side by side (gw0, gw1, ...) have ranges of their own: at most eight.
_PORTS_EACH = 2700
_FIRST_PORT = 10000 + _PORTS_EACH * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_PORTS = itertools.islice(
    itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + _PORTS_EACH)),
    random.SystemRandom().randrange(_PORTS_EACH),
    None,
)


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody listens on, none of them given out twice."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as entry, contextlib.suppress(OSError):
            entry.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            entry.bind(("0.0.0.0", next(_PORTS)))
            found.append(entry.getsockname()[1])
    return found


def eventually(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Wait until ``condition`` holds; fail the test after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not after {deadline:g} s: {what}"
        time.sleep(_POLL)


def freeze(pid: int) -> None:
    """Stop a process; none of its threads runs any more when this returns: the signal takes its time. One
    that has ended, and whose parent is perhaps stopped too, runs no more either.
    """
    os.kill(pid, signal.SIGSTOP)

    def stopped() -> bool:
        stats = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(text.rpartition(")")[2].split()[0] in "TZX" for text in stats)

    eventually(stopped, f"every thread of {pid} is stopped")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)


class Program:
    """What a machine runs of blockpair, below a directory of its own, and the command line there."""

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self.dir = base / name
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: tuple[str, ...] = ()
        """A command that it is started through, and that becomes it."""
        self.dir.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """What its programs run with."""
        return {**os.environ, "BLOCKPAIR_DIR": str(self.dir), "COLUMNS": "200"}

    @property
    def log(self) -> Path:
        """The log of all its processes."""
        return self.dir / "log"

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

    def cli(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> Done:
        """Run ``blockpair`` on its machine; whatever happens, it never prints a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "blockpair.cli.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            stdin=stdin,
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str) -> Done:
        """Run ``blockpair`` and expect it to succeed."""
        done = self.cli(*arguments)
        assert done.code == 0, (
            f"{self.name}: blockpair {' '.join(arguments)}: {done.code}\n{done.out}{done.err}"
        )
        return done


class Node(Program):
    """A node below its own directory."""

    def __init__(self, name: str, base: Path, port: int, control: int) -> None:
        super().__init__(name, base)
        self.port = port
        self.control = control
        (self.dir / "config").mkdir()
        self.configure()

    @property
    def environment(self) -> dict[str, str]:
        """What its programs run with."""
        return {**super().environment, "BLOCKPAIR_FAULTS": "1"}

    @property
    def disk(self) -> Path:
        """The file that is its backing device."""
        return self.dir / "disk"

    @property
    def nbd(self) -> Path:
        """The NBD socket of r0."""
        return self.dir / "run/nbd/r0.sock"

    def configure(self, extra: str = "") -> None:
        """Write blockpair.toml."""
        (self.dir / "config/blockpair.toml").write_text(
            f'[node]\nname = "{self.name}"\nlisten = "127.0.0.1:{self.port}"\n'
            f'control = "127.0.0.1:{self.control}"\nkernel_device = "off"\n{extra}'
        )

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A daemon that may or may not come up."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "blockpair.daemon.main", *arguments],
                env=self.environment,
                stderr=log,
            )

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        self.launch()
        self.await_daemon()

    def launch(self) -> None:
        """Start the daemon; does not wait for it."""
        self.process = self.spawn()

    def await_daemon(self) -> None:
        """Wait until the daemon answers."""
        process = self.process
        assert process is not None

        def answers() -> bool:
            assert process.poll() is None, f"{self.name}'s daemon ended:\n{self.log.read_text()}"
            try:
                self.rpc("daemon.info")
            except BlockpairError as error:
                if error.kind is not ErrorKind.NO_DAEMON:
                    raise
                return False
            return True

        eventually(answers, f"{self.name}'s daemon answers")

    def rpc(self, method: str, **params: Any) -> Any:
        """Call the daemon as the command line does, without the seconds that starting Python takes."""
        with Client(self.dir / "run/blockpaird.sock") as client:
            return json.loads(client.call_raw(method, params))

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Its daemon lives, and answers nobody meanwhile."""
        assert self.process is not None
        freeze(self.process.pid)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def refused(self, code: int, *arguments: str) -> str:
        """Run ``blockpair``, expect the exit code and a message with a remedy; the message."""
        done = self.cli(*arguments)
        assert done.code == code, f"blockpair {' '.join(arguments)}: {done.code}\n{done.out}{done.err}"
        assert "remedy: " in done.err, done.err
        return done.err

    def status(self) -> Any:
        """The report on r0."""
        return self.cli("status", "r0", "--json").json()["resources"][0]

    def wait(self, until: str, name: str = "r0", timeout: str = "30s") -> None:
        """Wait for a state of a resource."""
        self.ok("wait", name, "--until", until, "--timeout", timeout)

    def write(self, offset: int, data: bytes) -> None:
        """Write through the NBD socket, then flush; returns when both are acknowledged."""
        self._nbdsh(f"h.pwrite(bytes.fromhex('{data.hex()}'), {offset}); h.flush()")

    def read(self, offset: int, length: int) -> bytes:
        """Read through the NBD socket."""
        return bytes.fromhex(self._nbdsh(f"print(h.pread({length}, {offset}).hex())").strip())

    def _nbdsh(self, script: str) -> str:
        program = shutil.which("nbdsh")
        assert program is not None, "nbdsh is missing: apt-get install libnbd-bin python3-libnbd"
        # It starts `python3`: the distribution's, which has the nbd module, not a virtual environment's.
        done = subprocess.run(
            [program, "-u", f"nbd+unix:///?socket={self.nbd}", "-c", "exec(open(0).read())"],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Cluster:
    """Nodes a and b."""

    def __init__(self, base: Path) -> None:
        ports = free_ports(4)
        self.base = base
        self.a = Node("a", base, ports[0], ports[2])
        self.b = Node("b", base, ports[1], ports[3])
        # A test may put another machine in the place of one of them.
        self._machines = self.nodes

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both."""
        return self.a, self.b

    def peer_of(self, node: Node) -> Node:
        """The other one."""
        return self.b if node is self.a else self.a

    def start(self, *nodes: Node) -> None:
        """Start these nodes' daemons, both without names, side by side."""
        for node in nodes or self.nodes:
            node.launch()
        for node in nodes or self.nodes:
            node.await_daemon()

    def form(self) -> None:
        """Start both and make them members of the cluster "test"."""
        self.start()
        self.a.ok("cluster", "init", "test")
        self.admit(self.b)

    def admit(self, node: Node) -> str:
        """Make a node a member, by way of a; what it said."""
        token = self.a.rpc("cluster.token")["text"]
        return node.ok("cluster", "join", f"127.0.0.1:{self.a.control}", token).out

    def create(self, size: int = 16 << 20, *options: str) -> None:
        """Make r0 on both, on new files of ``size`` bytes."""
        for node in self.nodes:
            with node.disk.open("wb") as disk:
                disk.truncate(size)
            node.ok("create", "r0", "--device", str(node.disk), *self.peer_option(node), *options)

    def peer_option(self, node: Node) -> tuple[str, str]:
        """The --peer of ``create`` on a node."""
        peer = self.peer_of(node)
        return "--peer", f"{peer.name}=127.0.0.1:{peer.port}"

    def up(self) -> None:
        """Bring r0 up on both and wait for the connection."""
        for node in self.nodes:
            node.ok("up", "r0")
        for node in self.nodes:
            node.wait("connected")

    def synced(self) -> None:
        """From nothing to r0 in sync, a Primary."""
        self.start()
        self.create()
        self.up()
        self.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
        self.b.wait("synced")
        self.a.ok("promote", "r0")

    def close(self) -> None:
        """End the daemons."""
        for node in {*self._machines, *self.nodes}:
            node.kill()

    def logs(self) -> str:
        """What both daemons said."""
        return "\n".join(f"--- {n.name}\n{n.log.read_text()}" for n in self.nodes if n.log.exists())

    def assert_equal(self, primary: Node | None = None) -> bytes:
        """Both backing files, byte-identical once the peer has confirmed everything; their content."""
        source = primary or self.a

        def settled() -> bool:
            engine = source.rpc("resource.status", name="r0")["engine"]
            return not engine["requests"]["in_flight"] and not engine["peers"][0]["unacked"]

        eventually(settled, "nothing is on its way")
        ours, theirs = self.a.disk.read_bytes(), self.b.disk.read_bytes()
        assert len(ours) == len(theirs)
        if ours != theirs:
            differing = [
                offset
                for offset in range(0, len(ours), 4096)
                if ours[offset : offset + 4096] != theirs[offset : offset + 4096]
            ]
            raise AssertionError(f"the copies differ in {len(differing)} blocks, at {differing[:20]}")
        return ours
