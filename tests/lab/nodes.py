"""The product in a guest: a node with its disks, its daemon, its commands and its resource r0."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

from tests.lab.harness import SOURCE, Command, CommandFailed, Guest, GuestSpec, Lab, LabError, Result

LINK = "/dev/blockpair/r0"
MOUNT = "/srv/fs"
ARRAY = "/dev/md/r0"
MAPPED = "/dev/mapper/disk"
_POLL_S = 0.02
_PF_MEMALLOC_NOIO = 0x0008_0000  # as proc(5) shows it in the flags of a thread

Metadata = Literal["internal", "external"]


def eventually(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
    """Wait until ``condition`` holds; `LabError` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout:g} s: {what}")
        time.sleep(_POLL_S)


class Writer:
    """Writes file after file on a node's mounted file system, each durable before it is counted.

    It rests ``pause_s`` after each: the more files, the longer it takes to check them all.
    """

    def __init__(self, node: Node, name: str, pause_s: float) -> None:
        self.folder = f"{MOUNT}/{name}"
        self._node = node
        self._command = node.guest.start(f"exec python -m tests.lab.files_tool write {self.folder} {pause_s}")

    @property
    def pid(self) -> int:
        """Of its process, in its guest."""
        return self._command.pid

    @property
    def count(self) -> int:
        """How many files are durable."""
        return self._command.stdout.count("\n")

    def longest_wait_s(self, since: int) -> float:
        """The longest time from one file to the next one, from file ``since`` on."""
        lines = self._command.stdout.splitlines()[: self.count]
        at = [float(line.split()[1]) for line in lines[since:]]
        return max(later - earlier for earlier, later in pairwise(at))

    def advance(self, files: int, timeout: float = 30) -> None:
        """Wait until that many files more are durable. Raises `LabError`, also when the writer has ended."""
        wanted = self.count + files

        def there() -> bool:
            if not self._command.running:
                raise LabError(f"the writer ended: {self._command.stderr}")
            return self.count >= wanted

        eventually(there, f"file {wanted} of {self.folder} ({self.count} now)", timeout)

    def stop(self) -> None:
        """End it; it must not have met an error before."""
        assert self._command.running, f"the writer ended: {self._command.stderr}"
        self._command.signal("KILL")
        assert self._command.wait(check=False).returncode == 128 + 9

    def await_error(self) -> str:
        """Wait until an error has ended it; which."""
        result = self._command.wait(check=False)
        assert result.returncode == 1, result
        return result.stderr.splitlines()[-1]

    def check(self, node: Node, timeout: float = 60) -> None:
        """Every file it has counted is on ``node``'s mounted file system, with the right content."""
        node.guest.run(f"python -m tests.lab.files_tool check {self.folder} {self.count}", timeout)


class Node:
    """One guest as a node of r0. Configuration and state are on a small disk of their own, the last one, so
    that they outlive a power cut as those of an installed system do.
    """

    def __init__(self, guest: Guest, device: str, *, dusty: bool = False) -> None:
        self.guest, self.name, self.device, self.dusty = guest, guest.name, device, dusty
        self.log: list[Command] = []
        self.program = ""

    @property
    def daemon(self) -> Command:
        """The daemon that was started last."""
        return self.log[-1]

    def prepare(self, *, first: bool) -> str:
        """The shell commands that make a freshly booted guest ready for the daemon: its state, its array."""
        disks, system = self.guest.disks[:-1], self.guest.disks[-1]
        steps = [f"mkfs.ext4 -q {system}"] if first else []
        steps += [
            f"mkdir /srv/system && mount {system} /srv/system",
            "mkdir -p /srv/system/{config,state}",
            "mount --bind /srv/system/config /etc/blockpair",
            "mount --bind /srv/system/state /var/lib/blockpair",
            f"mkdir {MOUNT}",
        ]
        if self.device == ARRAY:
            if self.dusty:
                steps += _dust(disks[:2])
                disks = ["/dev/mapper/dust0", "/dev/mapper/dust1", *disks[2:]]
            make = f"--create {ARRAY} --run --level=10 --layout=n2 --raid-devices=4 --metadata=1.2"
            steps.append(f"mdadm {make if first else f'--assemble --run {ARRAY}'} {' '.join(disks)}")
            steps.append(f"[ -b {ARRAY} ]")
        elif self.device == MAPPED:
            steps.append("modprobe dm-mod")
            # There is no udev here: dmsetup makes the node itself and waits for nobody.
            create = f"DM_DISABLE_UDEV=1 dmsetup create {MAPPED.rsplit('/', 1)[1]}"
            steps.append(f'{create} --table "0 $(blockdev --getsz {disks[0]}) linear {disks[0]} 0"')
            steps.append(f"[ -b {MAPPED} ]")
        return "set -e\n" + "\n".join(steps)

    def start(self, timeout: float = 60) -> None:
        """Start the daemon and wait until it takes commands."""
        self.launch()
        self.await_daemon(timeout)

    def launch(self) -> None:
        """Start the daemon; does not wait for it."""
        path = f"env PYTHONPATH={self.program} " if self.program else ""
        self.log.append(self.guest.start(f"exec {path}blockpaird --log-format console"))

    def install(self, version: str) -> None:
        """Put another version of the program beside the one that runs; the next daemon is of that one."""
        self.program = f"/srv/{version}"
        package = f"{self.program}/blockpair"
        self.guest.run(
            f"mkdir {self.program} && cp -rs {SOURCE}/blockpair {package} && rm {package}/__init__.py"
            f" && echo '__version__ = \"{version}\"' >{package}/__init__.py"
        )

    def await_daemon(self, timeout: float = 60) -> None:
        """Wait until the daemon takes commands. Raises `LabError` with its log."""
        daemon = self.daemon

        def ready() -> bool:
            if not daemon.running:
                raise LabError(f"{self.name}: the daemon ended: {daemon.stderr}")
            return "daemon.ready" in daemon.stderr

        eventually(ready, f"{self.name}: the daemon is ready: {daemon.stderr}", timeout)

    def end(self, signal: str, timeout: float = 30) -> int:
        """Send the daemon a signal and wait for its end; its exit code."""
        self.daemon.signal(signal)
        return self.daemon.wait(timeout, check=False).returncode

    def protected_threads(self) -> set[str]:
        """Names of the daemon's threads that are marked as I/O flushers."""
        marked = set()
        for line in self.guest.run(f"cat /proc/{self.daemon.pid}/task/*/stat").splitlines():
            name, fields = line.split("(", 1)[1].rsplit(")", 1)
            if int(fields.split()[6]) & _PF_MEMALLOC_NOIO:
                marked.add(name)
        return marked

    def power_up(self) -> None:
        """After a power cut: boot, assemble the same array, start the daemon; it brings r0 up by itself."""
        self.guest.power_on()
        self.come_up()
        self.await_daemon()

    def come_up(self) -> None:
        """`power_up` from the boot to the start of the daemon."""
        self.guest.wait_ready()
        self.guest.run(self.prepare(first=False))
        self.launch()

    def cli(self, words: str, timeout: float = 60) -> str:
        """A ``blockpair`` command that must succeed; what it printed."""
        return self.guest.run(f"blockpair {words}", timeout)

    def refused(self, words: str) -> str:
        """A ``blockpair`` command that must be refused as unsafe, with exit code 3; its message."""
        result: Result = self.guest.execute(f"blockpair {words}", check=False)
        if result.returncode != 3:
            raise CommandFailed(self.name, f"blockpair {words} (should be refused)", result)
        return result.stderr

    def wait(self, states: str, timeout: float = 60) -> None:
        """Wait until r0 is in these states, a comma between them."""
        self.cli(f"wait r0 --until {states} --timeout {timeout:g}s", timeout + 20)

    def report(self) -> dict[str, Any]:
        """r0's part of ``status --json``."""
        result = self.guest.execute("blockpair status r0 --json", check=False)
        if result.returncode not in (0, 4):
            raise CommandFailed(self.name, "blockpair status", result)
        (resource,) = json.loads(result.stdout)["resources"]
        assert isinstance(resource, dict)
        return resource

    def peer(self) -> dict[str, Any]:
        """What this node knows of its peer."""
        (peer,) = self.report()["engine"]["peers"]
        assert isinstance(peer, dict)
        return peer

    def writer(self, name: str, pause_s: float = 0.03) -> Writer:
        """A writer in a new folder of the mounted file system, with its first files durable."""
        writer = Writer(self, name, pause_s)
        writer.advance(5)
        return writer

    def make_file_system(self) -> None:
        """mkfs.ext4 and mount."""
        self.guest.run(f"mkfs.ext4 -q {LINK} && mount {LINK} {MOUNT}")

    def io_errors(self) -> list[str]:
        """Lines of the kernel's log that tell of failed I/O on the device, a hung task or lack of memory."""
        bad = re.compile(
            r"I/O error|remount.*read-only|EXT4-fs error|out of memory|oom-kill|blocked for more than", re.I
        )
        return [line for line in self.guest.run("dmesg").splitlines() if bad.search(line)]


def make_pair(
    lab: Lab,
    *,
    disk_mib: int = 64,
    memory_mib: tuple[int, int] = (256, 256),
    array: bool = True,
    mapped: bool = False,
    dusty: bool = False,
    metadata: Metadata = "internal",
    links: int = 1,
) -> tuple[Node, Node]:
    """Two nodes n1 and n2 with r0 in sync on both, on a RAID10 of four disks or a plain disk; no Primary.

    With ``mapped``, which goes with a plain disk, n1 sees its disk through the device-mapper. ``dusty``: the
    first two members of n1's array, a mirror, can be told that sectors are bad. ``links``: the networks, and
    so the paths, between them.
    """
    disks = disks_of_node(disk_mib, array=array)
    guests = lab.boot(
        *(GuestSpec(f"n{i + 1}", disks_mib=disks, memory_mib=memory_mib[i], links=links) for i in range(2))
    )
    n1, n2 = (Node(guest, ARRAY if array else guest.disks[0]) for guest in guests)
    n1.dusty = dusty
    if mapped:
        n1.device = MAPPED
    first_start(n1, n2)
    place = " --metadata internal" if metadata == "internal" else ""
    n1.cli(f"create r0 --on n1={n1.device},n2={n2.device}{place}")
    n1.wait("connected")
    n1.cli("sync r0 --from n1 --wait", 120)
    return n1, n2


def _dust(disks: Sequence[str]) -> list[str]:
    """Shell commands that put a device below which sectors can be bad, until they are written, over each."""
    tables = [f"0 $(blockdev --getsz {disk}) dust {disk} 0 512" for disk in disks]
    made = [
        f'DM_DISABLE_UDEV=1 dmsetup create dust{number} --table "{table}"'
        for number, table in enumerate(tables)
    ]
    return ["modprobe dm-dust", *made]


def make_lone(lab: Lab, *, disk_mib: int = 64) -> Node:
    """One node n1 with r0 on a plain disk, Primary; its peer does not exist."""
    (guest,) = lab.boot(GuestSpec("n1", disks_mib=[disk_mib, 16]))
    node = Node(guest, guest.disks[0])
    guest.run(node.prepare(first=True))
    node.start()
    # Nobody listens there.
    absent = "n2=127.0.0.1:9"
    node.cli(f"create r0 --device {node.device} --metadata internal --peer {absent}")
    node.cli("up r0")
    node.cli("sync r0 --from n1")
    node.cli("promote r0 --force --yes")
    return node


def disks_of_node(disk_mib: int, *, array: bool) -> list[int]:
    """The disks of a node's guest: a plain one, or the four members of a RAID10, and that of the system."""
    return [disk_mib] * (4 if array else 1) + [16]


def first_start(first: Node, second: Node) -> None:
    """Two freshly booted guests become a cluster, each with its disk and its daemon."""
    for command in [node.guest.start(node.prepare(first=True)) for node in (first, second)]:
        command.wait()
    for node in (first, second):
        node.launch()
    for node in (first, second):
        node.await_daemon()
    make_cluster(first, second)


def make_cluster(first: Node, second: Node) -> None:
    """The cluster `lab` of two nodes whose daemons run."""
    first.cli(f"cluster init lab {_own_addresses(first)}")
    made = json.loads(first.cli("cluster token --json"))
    second.cli(f"cluster join {made['address']} {made['text']} {_own_addresses(second)}")


def _own_addresses(node: Node) -> str:
    return " ".join(f"--address {address}" for address in node.guest.addresses)


def assert_same_content(*nodes: Node) -> None:
    """Take r0 down everywhere; the copies, read from the disks, are the same in every byte."""
    sizes = {int(node.report()["engine"]["size_bytes"]) for node in nodes}
    assert len(sizes) == 1, sizes
    (size,) = sizes
    assert size % 4096 == 0
    read = "dd if={} iflag=direct,count_bytes bs=1M count={} status=none"
    hashes = [
        node.guest.start(f"set -eo pipefail; blockpair down r0; {read.format(node.device, size)} | sha256sum")
        for node in nodes
    ]
    found = {command.wait(120).stdout for command in hashes}
    assert len(found) == 1, found
