"""Several real Linux kernels on one machine, with a network between them, as test objects.

    with Lab() as lab:
        a, b = lab.boot(GuestSpec("a", disks_mib=(64, 64)), GuestSpec("b"))
        a.run("mkfs.ext4 -q /dev/ubda")
        a.unplug()                      # pull the network cable
        a.power_cut()                   # memory is gone, disks stay
        a.boot()

Each guest is a User-Mode Linux process tree. It sees the host's files through a writable overlay of its own,
so the host's programs, virtual environment and sources are there as they are, and nothing it writes reaches
the host. What a guest wrote outside its disks is lost with its power. Guests are joined by bridges in a
network namespace that belongs to this `Lab` alone.

Time inside is real time, system calls inside are two orders of magnitude slower than the host's: compare
timings only within one lab.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.lab import kernel as uml
from tests.lab.command import Boot, Command, CommandFailed, CommandTimeout, GuestDied, LabError, Result
from tests.lab.journal import Journal
from tests.lab.network import LINKS, Network, address, hardware_address, tap

__all__ = [
    "Command",
    "CommandFailed",
    "CommandTimeout",
    "Guest",
    "GuestDied",
    "GuestSpec",
    "Lab",
    "LabError",
    "LabUnavailable",
    "Result",
]

SOURCE = Path(__file__).resolve().parents[2]
_INIT = Path(__file__).resolve().with_name("guest_init.sh")
_HIDDEN_IN_GUEST = ("/run", "/tmp", "/var/lib", "/dev/shm")
_MODULES = ("loop", "nbd", "md-mod")  # the others load themselves when something asks for them
_NAMESPACE = re.compile(r"^blockpair-lab-(\d+)-")


class LabUnavailable(RuntimeError):
    """This machine cannot run the lab; the message says why and what would help."""


@dataclass(frozen=True)
class GuestSpec:
    """What a guest is made of. Sizes in MiB; the disks are /dev/ubda, /dev/ubdb and so on, empty at first.

    It has a network card on each of the first ``links`` networks.
    """

    name: str
    disks_mib: Sequence[int] = ()
    memory_mib: int = 256
    links: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,15}", self.name):
            raise ValueError(f"guest name {self.name!r}: use up to 16 of a-z, 0-9 and '-', a letter first")
        if len(self.disks_mib) > 8:
            raise ValueError(f"guest {self.name}: {len(self.disks_mib)} disks, 8 are possible")
        if not 1 <= self.links <= LINKS:
            raise ValueError(f"guest {self.name}: {self.links} links, 1 to {LINKS} are possible")


def why_unavailable() -> str | None:
    """Why this machine cannot run the lab, with a remedy; None when it can. Does not look for the kernel."""
    if os.geteuid() != 0:
        return "needs root for a network namespace and tap devices: run 'sudo ./scripts/lab'"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun: load the module 'tun', or give the container this device"
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("modprobe", "kmod")):
        if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"needs the program '{tool}': apt-get install {package}, or run ./scripts/lab, which does"
    return None


def _wait(condition: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(0.01)


def _session_processes(session: int) -> list[tuple[int, str]]:
    """(pid, state) of all host processes of a session; zombies are left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append((int(entry.name), fields[0]))
    return found


def _traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return re.search(r"^TracerPid:\t0$", status, re.MULTILINE) is None


class Guest:
    """One kernel with its disks and its network cards. Made by `Lab.boot`."""

    def __init__(self, lab: Lab, spec: GuestSpec, number: int) -> None:
        self.spec, self.name = spec, spec.name
        self.addresses = [address(link, number) for link in range(spec.links)]
        self.address = self.addresses[0]
        self.disks = [f"/dev/ubd{chr(ord('a') + i)}" for i in range(len(spec.disks_mib))]
        self.images = [lab.folder / f"{spec.name}-{i}.img" for i in range(len(spec.disks_mib))]
        self.console = lab.folder / f"{spec.name}.console"
        self.lab, self.number, self._lives = lab, number, 0
        self.journal = Journal()
        self._boot: Boot | None = None
        self._frozen: list[int] = []
        for image, mib in zip(self.images, spec.disks_mib, strict=True):
            with image.open("wb") as handle:
                handle.truncate(mib << 20)
        for link in range(spec.links):
            lab.network.add(link, number)

    @property
    def release(self) -> str:
        """The guest kernel's release, such as ``6.1.176``."""
        return self._life().release

    @property
    def powered(self) -> bool:
        return self._boot is not None and self._boot.alive

    def power_on(self) -> None:
        """Start the kernel; does not wait for it. Only the disks are as the last life left them."""
        if self.powered:
            raise LabError(f"guest {self.name} is already on")
        self._lives += 1
        share = self.lab.folder / f"{self.name}-{self._lives}"
        share.mkdir()
        requests_in, requests_out = os.pipe()
        answers_in, answers_out = os.pipe()
        journal_in, journal_out = os.pipe()
        with self.console.open("ab") as console:
            process = subprocess.Popen(
                self._command_line(share, requests_in, answers_out, journal_out),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(requests_in, answers_out, journal_out),
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(self.lab.folder)},  # where UML keeps the guest's memory
            )
        for end in (requests_in, answers_out, journal_out):
            os.close(end)
        self._boot = Boot(process, requests_out, share)
        for listen, source in ((self._boot.listen, answers_in), (self.journal.listen, journal_in)):
            threading.Thread(target=listen, args=(source,), name=f"lab-{self.name}", daemon=True).start()

    def _command_line(self, share: Path, requests: int, answers: int, journal: int) -> list[str]:
        root = self.lab.kernel.root
        shown = [
            str(p) for p in self.lab.shown if str(p).startswith(tuple(f"{h}/" for h in _HIDDEN_IN_GUEST))
        ]
        # setpriv: a test run that is killed takes its guests with it.
        return [
            *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.lab.namespace}"),
            *self.lab.kernel.command,
            f"mem={self.spec.memory_mib}M",
            f"umid={self.lab.namespace}-{self.name}",
            f"uml_dir={self.lab.folder}",
            *("rootfstype=hostfs", "rootflags=/", "ro", f"init={_INIT}", "quiet", "panic=-1"),
            *("con=null", "con0=null,fd:1", f"con1=fd:{requests},fd:{answers}", f"con2=null,fd:{journal}"),
            *(f"ubd{chr(ord('a') + i)}={image}" for i, image in enumerate(self.images)),
            *(
                f"vec{link}:transport=tap,ifname={tap(link, self.number)},depth=128,gro=1"
                f",mac={hardware_address(link, self.number)}"
                for link in range(self.spec.links)
            ),
            f"lab_name={self.name}",
            f"lab_addresses={','.join(f'{address}/24' for address in self.addresses)}",
            f"lab_kernel={root}",
            f"lab_share={share}",
            f"lab_show={':'.join(shown)}",
            f"lab_path={Path(sys.prefix) / 'bin'}",
            f"lab_source={SOURCE}",
            f"lab_modules={','.join(_MODULES)}",
        ]

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until the guest takes commands. Raises `LabError` with the end of its console."""
        boot = self._life()
        try:
            boot.until(lambda: bool(boot.release), timeout, "boot")
        except LabError as error:
            raise LabError(f"guest {self.name}: {error}\nconsole: {self.console_tail()}") from None

    def boot(self, timeout: float = 60) -> Guest:
        """Switch the power on and wait until the guest takes commands."""
        self.power_on()
        self.wait_ready(timeout)
        return self

    def console_tail(self, characters: int = 3000) -> str:
        """The end of what the guest's kernel and its first process printed."""
        return self.console.read_text(errors="replace")[-characters:]

    def start(self, command: str) -> Command:
        """Start a bash command (any number of lines) and return at once."""
        boot = self._life()
        boot.started += 1
        ident = f"c{boot.started}"
        (boot.share / f"{ident}.sh").write_text(command + "\n")
        for suffix in ("out", "err"):
            (boot.share / f"{ident}.{suffix}").touch()
        boot.ask(f"run {ident}")
        return Command(self.name, boot, ident, command)

    def execute(self, command: str, timeout: float = 60, check: bool = True) -> Result:
        """Run a bash command to its end. Raises as `Command.wait` does."""
        return self.start(command).wait(timeout, check)

    def run(self, command: str, timeout: float = 60) -> str:
        """Run a bash command that must succeed; its standard output."""
        return self.execute(command, timeout).stdout

    def wait_for(self, command: str, timeout: float = 30) -> str:
        """Repeat a bash command until it succeeds; its standard output."""
        deadline = time.monotonic() + timeout
        while True:
            result = self.execute(command, max(1.0, deadline - time.monotonic()), check=False)
            if result.returncode == 0:
                return result.stdout
            if time.monotonic() > deadline:
                raise CommandFailed(self.name, f"{command} (repeated for {timeout:g} s)", result)

    def unplug(self, link: int = 0) -> None:
        """Pull a network cable."""
        self.lab.network.unplug(link, self.number)

    def plug(self, link: int = 0) -> None:
        """Put a network cable back."""
        self.lab.network.plug(link, self.number)

    def power_cut(self) -> None:
        """Take the power away at once: memory is lost, disks keep what the kernel had written to them."""
        boot, self._boot, self._frozen = self._boot, None, []
        if boot is None:
            return
        session = boot.process.pid
        deadline = time.monotonic() + 10
        # Again and again, for a process may fork between the look and the shot.
        while alive := _session_processes(session):
            if time.monotonic() > deadline:
                raise LabError(f"guest {self.name}: processes {alive} do not die")
            for pid, _ in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.005)
        boot.process.wait(10)
        os.close(boot.requests)

    def freeze(self) -> None:
        """Stop the guest's kernel, as a paused virtual machine: no clock ticks, no packet is answered.

        Only untraced processes are stopped: the traced ones are the guest's programs, which cannot make a
        system call without their kernel.
        """
        pids = [pid for pid, _ in _session_processes(self._life().process.pid) if not _traced(pid)]
        self._frozen += pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        session = self._life().process.pid
        _wait(
            lambda: all(state == "T" for pid, state in _session_processes(session) if pid in pids),
            5,
            f"freezing guest {self.name}",
        )

    def thaw(self) -> None:
        """Let a frozen guest go on."""
        while self._frozen:
            os.kill(self._frozen.pop(), signal.SIGCONT)

    def _life(self) -> Boot:
        if self._boot is None:
            raise GuestDied(f"guest {self.name} has no power: boot it first")
        return self._boot


class Lab:
    """Bridges in a network namespace of its own, and the guests on them. A context manager: all ends with it.

    ``shown`` names host folders that guests must see although they lie below one of the folders guests have
    of their own (/tmp, /run, /var/lib …); this Python's environment and the sources are always seen.
    """

    _made = 0

    def __init__(self, shown: Sequence[Path] = ()) -> None:
        reason = why_unavailable()
        if reason:
            raise LabUnavailable(f"the lab {reason}")
        try:
            self.kernel = uml.ensure()
        except uml.KernelUnavailable as error:
            raise LabUnavailable(f"the lab has {error}") from None
        _remove_abandoned()
        Lab._made += 1
        self.namespace = f"blockpair-lab-{os.getpid()}-{Lab._made}"
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.namespace}-", dir=base))
        self.shown = [Path(sys.prefix), Path(sys.base_prefix), SOURCE, self.kernel.root, *shown]
        self.guests: dict[str, Guest] = {}
        try:
            self.network = Network(self.namespace)
        except BaseException:
            self.close()
            raise

    def boot(self, *specs: GuestSpec, timeout: float = 60) -> list[Guest]:
        """Add guests and boot them side by side."""
        new = []
        for spec in specs:
            if spec.name in self.guests:
                raise ValueError(f"a guest {spec.name} is already in this lab")
            guest = self.guests[spec.name] = Guest(self, spec, len(self.guests) + 1)
            new.append(guest)
            guest.power_on()
        for guest in new:
            guest.wait_ready(timeout)
        return new

    def run_outside(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a host program on the lab's network: a third machine, say a witness, at 10.77.0.254."""
        full = ["nsenter", f"--net=/run/netns/{self.namespace}", *command]
        return subprocess.run(full, capture_output=True, text=True, timeout=timeout, check=False)

    def logs(self) -> dict[str, str]:
        """By a name each: the guests' consoles, and what the daemons and witnesses in them said."""
        found = {}
        for name, guest in self.guests.items():
            found[f"{name}.console"] = guest.console.read_text(errors="replace")
            for script in sorted(self.folder.glob(f"{name}-*/*.sh"), key=lambda path: path.stat().st_mtime):
                if script.read_text().startswith("exec blockpair"):
                    log = script.with_suffix(".err").read_text(errors="replace")
                    found[f"{script.parent.name}.{script.stem}.log"] = log
        return found

    def close(self) -> None:
        """Cut all power and remove all that was made."""
        for guest in self.guests.values():
            guest.power_cut()
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove_abandoned() -> None:
    """Remove what test runs that were killed left behind: helper processes of guests, namespaces, images."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            _kill_helper(entry)
    for folder, remove in ((Path("/run/netns"), _remove_namespace), (Path("/dev/shm"), _remove_folder)):
        if not folder.is_dir():
            continue
        for entry in folder.iterdir():
            if _is_abandoned(entry.name):
                remove(entry)


def _is_abandoned(name: str) -> bool:
    match = _NAMESPACE.match(name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


def _kill_helper(process: Path) -> None:
    """Kill a guest's process whose test run is gone; the guest's kernel itself died with that run."""
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return
    guests = [word.removeprefix("umid=") for word in words if word.startswith("umid=")]
    if words[0].endswith("/linux.uml") and guests and _is_abandoned(guests[0]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.name), signal.SIGKILL)


def _remove_namespace(entry: Path) -> None:
    subprocess.run(["ip", "netns", "delete", entry.name], capture_output=True, check=False)


def _remove_folder(entry: Path) -> None:
    shutil.rmtree(entry, ignore_errors=True)
