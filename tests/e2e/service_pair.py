"""Two nodes, a witness and a client, each in a network namespace of its own, and a service that follows r0:
an application as a unit, and a virtual address. Only systemd is stood in for, by a script.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from blockpair.config.names import Address
from tests.e2e import number_client
from tests.e2e.block_app import lost
from tests.e2e.cluster import DEADLINE, Node, eventually, freeze
from tests.e2e.namespace import Namespace
from tests.e2e.witness import WitnessProcess

ADDRESS = "192.0.2.10"
VIP = f"{ADDRESS}/24@eth0"
SIZE = 16 << 20
# Its verbs are is-active, start, stop, kill, reset-failed, is-system-running. app.service is the application;
# slow.service starts when it may; a unit whose name is in "broken" does not start.
_SYSTEMCTL = """\
#!/bin/sh
cd "$(dirname "$0")/../units" || exit 1
verb="$1"
shift
while [ "${1#-}" != "$1" ]; do shift; done
lives() {
    [ -s "$1" ] || { [ -e "$1" ]; return; }
    pid="$(cat "$1")"
    # Its number may be another's by now. At first it has our own words.
    case "$(tr '\\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" in
        *'SOCKET'* | *"$0"*) return 0 ;;
        *[!\\ ]*) return 1 ;;
    esac
    # One has no words while it becomes another program, and when it has ended and nobody has waited for it.
    grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null
}
case "$verb" in
    is-system-running) cat ../system-is ;;
    is-active) for unit; do if lives "$unit"; then echo active; else echo inactive; fi; done ;;
    start)
        if grep -qx "$1" ../broken 2>/dev/null; then
            echo "Job for $1 failed because the control process exited." >&2
            exit 1
        fi
        case "$1" in
            slow.service) [ -e ../quick ] || { echo $$ >../starting; exec sleep 600; } ;;
            app.service)
                lives "$1" && exit 0
                rm -f ../ready
                setsid APP ../ready ../writes </dev/null >/dev/null 2>&1 &
                echo $! >"$1"
                while [ ! -e ../ready ]; do
                    lives "$1" || { echo "the application ended" >&2; exit 1; }
                    sleep 0.01
                done
                exit 0 ;;
        esac
        : >"$1" ;;
    stop | kill)
        if [ -s "$1" ] && lives "$1"; then
            kill "$(cat "$1")" 2>/dev/null
            while lives "$1"; do sleep 0.01; done
        fi
        rm -f "$1" ;;
esac
"""


def install_systemctl(folder: Path, name: str, export: Path) -> None:
    """Put it into ``folder``/bin, for a node whose disk has its socket at ``export``."""
    for each in ("bin", "units"):
        (folder / each).mkdir(parents=True)
    application = shlex.join([sys.executable, "-m", "tests.e2e.block_app", name, str(export)])
    program = folder / "bin/systemctl"
    program.write_text(_SYSTEMCTL.replace("APP", application).replace("SOCKET", str(export)))
    program.chmod(0o755)


class NetNode(Node):
    """A node in a network namespace, which its peer finds at ``address``."""

    def __init__(self, name: str, base: Path, net: Namespace, address: str) -> None:
        self.net, self.address = net, address
        super().__init__(name, base, 7788, 7789)
        self.prefix = net.prefix
        install_systemctl(self.dir, name, self.nbd)

    @property
    def writes(self) -> Path:
        """What its application has had acknowledged by the disk, as `block_app` tells it."""
        return self.dir / "writes"

    @property
    def environment(self) -> dict[str, str]:
        """With a systemctl of its own."""
        found = super().environment
        return {**found, "PATH": f"{self.dir}/bin:{found['PATH']}", "PYTHONPATH": str(Path.cwd())}

    def configure(self, extra: str = "") -> None:
        """Write blockpair.toml."""
        (self.dir / "config/blockpair.toml").write_text(
            f'[node]\nname = "{self.name}"\nkernel_device = "off"\n{extra}'
        )

    def report(self) -> Any:
        """The report on r0."""
        return self.rpc("resource.status", name="r0")

    def service(self) -> Any:
        """What it says of the service."""
        return self.report()["service"]

    def holds(self) -> bool:
        """Whether it has the address."""
        return self.net.has_address(ADDRESS)

    def active(self, unit: str = "app.service") -> bool:
        """Whether a unit runs here."""
        words = [str(self.dir / "bin/systemctl"), "is-active", unit]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout == "active\n"

    def breaks(self, *units: str) -> None:
        """From now on these do not start here."""
        (self.dir / "broken").write_text("".join(f"{unit}\n" for unit in units))

    def is_state(self, state: str, deadline: float = DEADLINE) -> None:
        """Wait until the service is in that state."""
        eventually(
            lambda: self.service()["state"] == state, f"the service on {self.name} is {state}", deadline
        )

    def is_up(self) -> None:
        """Wait until all of the service is here."""

        def so() -> bool:
            found = self.report()
            up = (found["service"]["state"], found["engine"]["role"]) == ("up", "Primary")
            return up and self.active() and self.holds()

        eventually(so, f"all of the service is on {self.name}")

    def is_down(self) -> None:
        """Wait until none of it is."""
        eventually(lambda: not self.holds() and not self.active(), f"nothing of the service on {self.name}")


class Client:
    """Has numbers written through the address, one after the other, ``pause`` seconds between them."""

    def __init__(self, net: Namespace, pause: float = 0.02) -> None:
        self.answers: list[tuple[str, int, float]] = []
        # One that nobody answers does not notice that nobody reads.
        ends = ("setpriv", "--pdeathsig", "KILL")
        self._process = subprocess.Popen(
            [*ends, *net.prefix, sys.executable, number_client.__file__, ADDRESS, str(pause)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                # Its end came in the middle of it.
                break
            who, number, at = line.split()
            self.answers.append((who, int(number), float(at)))

    def answered_by(self, name: str, deadline: float = DEADLINE) -> None:
        """Wait until this node answers, and goes on to."""
        wanted = len(self.answers) + 5

        def so() -> bool:
            return len(self.answers) >= wanted and self.answers[-1][0] == name

        eventually(so, f"{name} answers the client", deadline)

    def silence(self, since: float, until: float = math.inf) -> float:
        """The longest time without an answer from ``since`` on, to the first one after ``until``."""
        times = [since, *(at for _, _, at in self.answers if at > since)]
        return max(after - before for before, after in pairwise(times) if before < until)

    def rests(self) -> None:
        """It asks nothing more, until it `goes_on`."""
        freeze(self._process.pid)

    def goes_on(self) -> None:
        """It asks again."""
        self._process.send_signal(signal.SIGCONT)

    def acknowledged(self) -> list[int]:
        """The numbers that were answered."""
        return [number for _, number, _ in self.answers]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Holders:
    """Watches all the time that no two nodes have the address."""

    def __init__(self, *nets: Namespace) -> None:
        self._nets = nets
        self._end = threading.Event()
        self.most = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        a, b = self._nets
        while not self._end.wait(0.005):
            # The one seen first again: the address may have moved in between.
            first, other, again = (net.has_address(ADDRESS) for net in (a, b, a))
            self.most = max(self.most, (first and again) + other)

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._thread.join()


class ServicePair:
    """All of them. ``arbitrated``: the witness decides who goes on."""

    def __init__(self, base: Path, stack: contextlib.ExitStack, *, arbitrated: bool) -> None:
        self.switch, *hosts = (stack.enter_context(contextlib.closing(Namespace())) for _ in range(5))
        for number, host in enumerate(hosts, 1):
            host.plug(self.switch, f"port{number}", f"192.0.2.{number}/24")
        places = self.wire(hosts[0], hosts[1])
        self.a, self.b = (NetNode(*each) for each in zip("ab", [base] * 2, hosts[:2], places, strict=True))
        self.witness = WitnessProcess(base)
        self.witness.address = Address("192.0.2.3", 7790)
        self.witness.prefix = hosts[2].prefix
        self.elsewhere = hosts[3]
        self._arbitrated = arbitrated
        stack.callback(self.close)
        self.form()
        self.holders = stack.enter_context(contextlib.closing(Holders(self.a.net, self.b.net)))

    def wire(self, a: Namespace, b: Namespace) -> tuple[str, str]:
        """Where the nodes find each other: on the network of everybody."""
        return "192.0.2.1", "192.0.2.2"

    @property
    def nodes(self) -> tuple[NetNode, NetNode]:
        """Both."""
        return self.a, self.b

    def form(self) -> None:
        """A cluster, perhaps with its witness, r0 in sync, and the service defined; nobody is Primary."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.await_daemon()
        self.a.ok("cluster", "init", "test", "--address", self.a.address)
        token = self.a.rpc("cluster.token")["text"]
        self.b.ok("cluster", "join", f"{self.a.address}:7789", token, "--address", self.b.address)
        if self._arbitrated:
            self.witness.start()
            token = self.a.rpc("cluster.token")["text"]
            self.witness.ok("witness", "join", "192.0.2.1:7789", token)
            settings = ("arbiter.kind=witness", f"arbiter.address={self.witness.address}")
            self.a.ok("config", "edit", *(word for one in settings for word in ("--set", one)))
        for node in self.nodes:
            with node.disk.open("wb") as disk:
                disk.truncate(SIZE)
        self.a.ok("create", "r0", "--on", f"a={self.a.disk},b={self.b.disk}")
        for node in self.nodes:
            node.rpc("resource.wait", name="r0", until=["connected"], timeout_seconds=DEADLINE)
        self.a.rpc("resource.sync", name="r0", source="a")
        for node in self.nodes:
            node.rpc("resource.wait", name="r0", until=["synced"], timeout_seconds=DEADLINE)
        self.define("app.service")

    def define(self, *units: str) -> None:
        """Say which units follow the data, beside the address."""
        words = [word for unit in units for word in ("--unit", unit)]
        self.a.ok("service", "set", "r0", *words, "--vip", VIP)

    def in_step(self) -> None:
        """Wait until either node may go on with all there is."""

        def so() -> bool:
            engines = [node.report()["engine"] for node in self.nodes]
            peers = [engine["peers"][0] for engine in engines]
            serving = [e for e in engines if e["role"] == "Primary" and e["arbitration"] is not None]
            return all(
                (peer["connection"], peer["replication"], peer["disk"])
                == ("Connected", "Established", "UpToDate")
                and not peer["out_of_sync_bytes"]
                for peer in peers
            ) and all(len((e["arbitration"]["configuration"] or {}).get("in_sync", ())) == 2 for e in serving)

        eventually(so, "both nodes are in sync")

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the address."""
        with contextlib.closing(Client(self.elsewhere)) as made:
            yield made

    def kept(self, node: NetNode, numbers: list[int]) -> bool:
        """Whether the disk of a node has every one of these numbers, or what came later in its place."""
        return not lost(node.disk.read_bytes(), numbers)

    def logs(self) -> str:
        """What all of them said."""
        programs = (*self.nodes, self.witness)
        return "\n".join(f"--- {one.name}\n{one.log.read_text()}" for one in programs if one.log.exists())

    def close(self) -> None:
        """End the daemons and what their units left running."""
        for program in (*self.nodes, self.witness):
            program.kill()
        for node in self.nodes:
            for unit in (node.dir / "units").iterdir():
                if text := unit.read_text().strip():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(text), 9)


def switched(node: NetNode, *words: str) -> Any:
    """`blockpair switchover r0 --json` on a node."""
    return node.ok("switchover", "r0", "--json", *words).json()


def began() -> float:
    """A moment, on the client's clock."""
    return time.monotonic()


@contextlib.contextmanager
def background(node: NetNode, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command on a node, not waited for."""
    arguments = [sys.executable, "-m", "blockpair.cli.main", *words]
    with subprocess.Popen(arguments, env=node.environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()
