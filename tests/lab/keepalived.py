"""The same faults under keepalived, which moves an address and knows nothing of data: two machines with a
responder each, and a client, in network namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster import eventually, freeze
from tests.e2e.namespace import Namespace
from tests.e2e.service_pair import ADDRESS, Client, Holders
from tests.lab.service_rounds import Fault, ServiceRound

FAULTS = (
    Fault.POWER, Fault.KILL, Fault.FREEZE, Fault.HANG, Fault.CLIENTS, Fault.UNIT, Fault.SWITCHOVER,
)  # fmt: skip
"""Those that it can be asked about."""
_DEADLINE_S = 30.0
_LASTS_S = 5.0
# One that is in charge stays so: a machine that comes back waits. The check is of a file that the responder's
# death takes along; a second between two advertisements, and between two checks, is what it does of itself.
_CONFIGURATION = """\
global_defs {{
    router_id {name}
    script_user root
    enable_script_security
}}
vrrp_script responder {{
    script "/usr/bin/test -e {alive}"
    interval 1
    fall 1
    rise 1
}}
vrrp_instance service {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 77
    priority {priority}
    advert_int 1
    virtual_ipaddress {{
        {address}/24 dev eth0
    }}
    track_script {{
        responder
    }}
}}
"""


def missing() -> str | None:
    """Why it cannot be measured here; None: it can."""
    if shutil.which("keepalived") is None:
        return "keepalived is not installed (apt-get install keepalived): its columns stay empty"
    return None


@dataclass
class _Machine:
    """A machine: its responder, and keepalived."""

    name: str
    folder: Path
    net: Namespace
    stack: contextlib.ExitStack

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.alive = self.folder / "alive"
        self.responder = self._start(sys.executable, "-m", "tests.who_answers", "serve", self.name)
        assert self.responder.stdout is not None and self.responder.stdout.readline() == b"serving\n"
        self.alive.touch()

    def run_keepalived(self, priority: int) -> None:
        """Start it."""
        file = self.folder / "keepalived.conf"
        text = _CONFIGURATION.format(name=self.name, alive=self.alive, priority=priority, address=ADDRESS)
        file.write_text(text)
        file.chmod(0o644)
        kept = ("--pid", str(self.folder / "pid"), "--vrrp_pid", str(self.folder / "vrrp.pid"))
        words = ("keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", str(file), *kept)
        self.keepalived = self._start(*words)

    @property
    def holds(self) -> bool:
        """Whether it has the address."""
        return self.net.has_address(ADDRESS)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*self.net.prefix, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if "serve" in words else log,
                stderr=log,
                start_new_session=True,
            )
        self.stack.callback(process.wait)
        self.stack.callback(self._signal, process, signal.SIGKILL)
        return process

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def ends(self, number: signal.Signals) -> None:
        """A signal to keepalived and its child."""
        self._signal(self.keepalived, number)

    def freezes(self, *, responder: bool) -> None:
        """Keepalived and its child stand still, and the responder too if so."""
        for pid in self.net.processes():
            if responder or pid != self.responder.pid:
                # A check of its runs a moment only.
                with contextlib.suppress(ProcessLookupError):
                    freeze(pid)


def play(fault: Fault, number: int, base: Path) -> ServiceRound:
    """One round, on new machines. Raises `AssertionError` where something does not come about in time."""
    with contextlib.ExitStack() as stack:
        switch, *hosts = (stack.enter_context(contextlib.closing(Namespace())) for _ in range(4))
        for port, host in enumerate(hosts, 1):
            host.plug(switch, f"port{port}", f"192.0.2.{port}/24")
        a, b = (_Machine(name, base / name, net, stack) for name, net in zip("ab", hosts[:2], strict=True))
        holders = stack.enter_context(contextlib.closing(Holders(a.net, b.net)))
        a.run_keepalived(150)
        eventually(lambda: a.holds, "a has the address", _DEADLINE_S)
        b.run_keepalived(100)
        client = stack.enter_context(contextlib.closing(Client(hosts[2], 0.005)))
        client.answered_by("a")
        # It has heard some of a's advertisements, and is at some moment between two of them.
        time.sleep(2 + 0.31 * (number % 4))
        assert not b.holds

        began = time.monotonic()
        match fault:
            case Fault.POWER:
                switch.ip("link", "set", "port1", "down")
                for pid in a.net.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                # It may have removed it in between: the cable was seen to be cut.
                with contextlib.suppress(OSError):
                    a.net.ip("address", "del", f"{ADDRESS}/24", "dev", "eth0")
            case Fault.KILL:
                a.ends(signal.SIGKILL)
            case Fault.FREEZE | Fault.HANG:
                a.freezes(responder=fault is Fault.HANG)
            case Fault.CLIENTS:
                switch.ip("link", "set", "port1", "down")
            case Fault.UNIT:
                a.alive.unlink()
                a.responder.kill()
            case Fault.SWITCHOVER:
                a.ends(signal.SIGTERM)
            case _:
                raise ValueError(f"keepalived does nothing about {fault}")
        client.answered_by("b", _DEADLINE_S)
        time.sleep(max(0.0, began + _LASTS_S - time.monotonic()))
        return ServiceRound(
            str(fault),
            number,
            client.silence(began, time.monotonic()),
            len(client.answers),
            two_holders=holders.most > 1,
        )
