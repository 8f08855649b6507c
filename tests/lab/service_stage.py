"""Two nodes with a service, a witness and a client, in network namespaces, and what is done to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.e2e.block_app import lost
from tests.e2e.cluster import eventually, freeze
from tests.e2e.namespace import Namespace
from tests.e2e.service_pair import VIP, Client, NetNode, ServicePair, switched
from tests.lab.scenarios import GoesOn
from tests.lab.service_rounds import (
    Fault,
    ServiceRound,
    ServiceScenario,
    Written,
    late_writes,
    not_as_expected,
    parse_writes,
)

_PAUSE_S = 0.005  # of the client between two writes
_STEADY = 30  # answers before the fault
_READY_S = 60.0
_CABLE = "direct"
# What the machine is busy with, and that one round comes after the other, make no node sick.
_OTHER_PARTS = (
    "cpu",
    "memory",
    "disk-latency",
    "disk-busy",
    "disk-errors",
    "array",
    "temperature",
    "clock",
    "link",
)
_HEALTH = "".join(
    [
        '[health]\npatience = "30s"\ndwell = "60s"\n[health.parts.memory-available]\ngood = -1\nbad = -2\n',
        *(f"[health.parts.{part}]\ngood = 1000000\nbad = 2000000\n" for part in _OTHER_PARTS),
    ]
)
# The daemon finds its network's interfaces in sysfs.
_OWN_SYSFS = ("unshare", "--mount", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh")


class TwoNetworks(ServicePair):
    """The nodes replicate over a cable of their own; clients and the witness are on another network. The disk
    of either can be made to fail.
    """

    def wire(self, a: Namespace, b: Namespace) -> tuple[str, str]:
        """Over the cable."""
        a.cable(b, _CABLE, "198.51.100.1/24", "198.51.100.2/24")
        return "198.51.100.1", "198.51.100.2"

    def form(self) -> None:
        """With the disks on file systems of their own, which can be filled."""
        for node in self.nodes:
            node.prefix = (*node.net.prefix, *_OWN_SYSFS)
            node.configure(_HEALTH)
            place = node.disk.with_name("small")
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
            node.disk.symlink_to(place / "disk")
        super().form()

    def close(self) -> None:
        """End it, and unmount what it had."""
        super().close()
        for node in self.nodes:
            # A guard or an application that is frozen notices no end.
            for pid in node.net.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["umount", str(node.dir / "small")], check=False)

    def other(self, node: NetNode) -> NetNode:
        """The peer."""
        return self.b if node is self.a else self.a

    def clients_reach(self, node: NetNode, reach: str) -> None:
        """Pull the node's cable to everybody ("down") or put it in ("up"), at the switch's end."""
        self.switch.ip("link", "set", f"port{1 if node is self.a else 2}", reach)

    def peer_reaches(self, node: NetNode, reach: str) -> None:
        """The same of the cable to its peer, at the peer's end."""
        self.other(node).net.ip("link", "set", _CABLE, reach)


class ServiceStage:
    """All in order; `play` one scenario after another."""

    def __init__(self, base: Path, stack: contextlib.ExitStack) -> None:
        self.pair = TwoNetworks(base, stack, arbitrated=True)
        self.pair.a.ok("promote", "r0")
        self._client = stack.enter_context(contextlib.closing(Client(self.pair.elsewhere, _PAUSE_S)))
        self._first = 0
        self._marks = dict.fromkeys(self.pair.nodes, 0)

    def play(self, scenario: ServiceScenario, number: int) -> ServiceRound:
        """One round. Raises `AssertionError` where something does not come about in time."""
        pair, client = self.pair, self._client
        primary = self._settle()
        other = pair.other(primary)
        first = self._first = len(client.answers)
        self._marks = {node: _size(node.writes) for node in pair.nodes}
        eventually(lambda: len(client.answers) >= first + _STEADY, "the client is answered", _READY_S)

        fault = time.monotonic()
        mend = self._inflict(scenario.fault, primary)
        _until(fault + scenario.lasts_s)
        survivor = other if scenario.goes_on is GoesOn.SECONDARY else primary
        client.answered_by(survivor.name, scenario.deadline_s)
        ended = time.monotonic()
        waited = client.silence(fault, ended)
        mend()
        copies = [other] if scenario.fault is Fault.DISK else [*pair.nodes]
        if scenario.fault is Fault.DISK:
            assert primary.report()["engine"]["disk"] == "Diskless", "the disk did not fail"
        else:
            self._settle()
        with self._at_rest(survivor):
            answers = client.answers[first:]
            writes = self._writes()
            missing = {n for node in copies for n in lost(node.disk.read_bytes(), client.acknowledged())}
        late = late_writes(primary.name, writes)
        return ServiceRound(
            str(scenario.fault),
            number,
            waited,
            len(answers),
            len(missing),
            pair.holders.most > 1,
            late.second_writer,
            late.confirmed,
            not_as_expected(scenario.goes_on, primary.name, other.name, writes),
        )

    def told(self) -> str:
        """What the applications and the client told of the last round, in the order of time."""
        lines = [
            (one.began, f"{one.began:.6f} {one.node} writes {one.number}, until {one.ended:.6f}{_over(one)}")
            for one in self._writes()
        ]
        lines += [
            (at, f"{at:.6f} the client hears from {who} of {number}")
            for who, number, at in self._client.answers[self._first :]
        ]
        return "".join(f"{line}\n" for _, line in sorted(lines))

    def _writes(self) -> list[Written]:
        return [one for node in self.pair.nodes for one in _written(node, self._marks[node])]

    def _settle(self) -> NetNode:
        """Wait until all is in order; who serves."""
        found: list[NetNode] = []

        def so() -> bool:
            states = {node: node.service()["state"] for node in self.pair.nodes}
            found[:] = [node for node, state in states.items() if state == "up"]
            return sorted(states.values()) == ["stopped", "up"]

        eventually(so, "the service is up on one node", _READY_S)
        self.pair.in_step()
        [serving] = found
        serving.is_up()
        self.pair.other(serving).is_down()
        self._client.answered_by(serving.name)
        return serving

    @contextlib.contextmanager
    def _at_rest(self, serving: NetNode) -> Iterator[None]:
        """Nobody writes, and all that was written is on the disks."""
        self._client.rests()

        def so() -> bool:
            engine = serving.report()["engine"]
            return not engine["requests"]["in_flight"] and not engine["peers"][0]["unacked"]

        eventually(so, "nothing is on its way", _READY_S)
        yield
        self._client.goes_on()

    def _inflict(self, fault: Fault, node: NetNode) -> Callable[[], None]:  # noqa: PLR0911 - a fault, a case
        """Do it to who serves; what mends it."""
        pair = self.pair
        match fault:
            case Fault.POWER:
                return _power_cut(pair, node)
            case Fault.KILL:
                node.kill()
                return node.start
            case Fault.FREEZE:
                process = node.process
                assert process is not None
                freeze(process.pid)
                return lambda: process.send_signal(signal.SIGCONT)
            case Fault.HANG:
                frozen = node.net.processes()
                for pid in frozen:
                    # Some run a moment only.
                    with contextlib.suppress(ProcessLookupError):
                        freeze(pid)
                return lambda: _thaw(frozen)
            case Fault.REPLICATION:
                pair.peer_reaches(node, "down")
                return lambda: pair.peer_reaches(node, "up")
            case Fault.CLIENTS:
                pair.clients_reach(node, "down")
                return lambda: pair.clients_reach(node, "up")
            case Fault.UNIT | Fault.UNIT_ONCE:
                if fault is Fault.UNIT:
                    node.breaks("app.service")
                os.kill(int((node.dir / "units/app.service").read_text()), signal.SIGKILL)
            case Fault.DISK:
                _fill(node.dir / "small")
            case Fault.SWITCHOVER:
                switched(node)
            case Fault.KERNEL:
                raise ValueError("there is one kernel here")
        return lambda: None


def _power_cut(pair: TwoNetworks, node: NetNode) -> Callable[[], None]:
    """All processes end at once, and nobody hears of it; what is in memory is gone, and so is the address."""
    pair.clients_reach(node, "down")
    pair.peer_reaches(node, "down")
    for process in node.net.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    with contextlib.suppress(OSError):
        node.net.ip("address", "del", VIP.partition("@")[0], "dev", "eth0")
    # Its end is seen to here, as by nobody else.
    node.kill()

    def power_up() -> None:
        shutil.rmtree(node.dir / "run")
        for unit in (node.dir / "units").iterdir():
            unit.unlink()
        pair.clients_reach(node, "up")
        pair.peer_reaches(node, "up")
        node.start()

    return power_up


def _thaw(processes: list[int]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _fill(place: Path) -> None:
    """From here on a block that was never written cannot be: the file system is full."""
    with (place / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1 << 16))


def _over(write: Written) -> str:
    return "" if write.held is None else f", over {write.held}"


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _written(node: NetNode, since: int) -> list[Written]:
    text = node.writes.read_bytes()[since:].decode() if node.writes.exists() else ""
    return parse_writes(node.name, text)


def _until(moment: float) -> None:
    """A fault has to last: nothing else is waited for."""
    time.sleep(max(0.0, moment - time.monotonic()))
