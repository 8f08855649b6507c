"""The guided tour in the virtual machines of vagrant/: up, break, check, destroy. By scripts/lab vagrant."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import vagrant_words
from rich.console import Console
from tour import SOURCE as TOUR
from tour import Deed, steps

from tests.lab.command import LabError, Result
from tests.lab.hypervisor import Hypervisor
from tests.lab.rounds import MarkerMissing, place
from tests.lab.tour_stage import Outcome, Stage, perform

_ROOT = Path(__file__).parents[2]
_MACHINES = ("alpha", "beta", "witness")
_UNCHANGED = "every file was there already"  # as scripts/install says it
_PYTHON = {"bookworm": "3.11", "trixie": "3.13"}  # of Debian's releases
_DISK_MIB = 128
_BOOT_S = 1800.0
_UP_S = 7200.0


class Machines(Stage):
    """What `vagrant up` made, reached by ssh, broken by virsh."""

    def __init__(self, host: Hypervisor, patience: float) -> None:
        self._host, self.patience = host, patience
        self.words = dict(vagrant_words.WORDS)
        self.ssh = host.folder / "ssh_config"
        # One connection a machine is kept: to make one takes seconds where a processor is emulated.
        kept = "  ControlMaster auto\n  ControlPath /run/ssh-%n\n  ControlPersist yes\n"
        known = host.must("vagrant", "ssh-config", timeout=_BOOT_S)
        self.ssh.write_text(known + f"\nHost *\n{kept}  ServerAliveInterval 20\n  ConnectTimeout 60\n")

    def execute(self, machine: str, command: str, timeout: float) -> Result:
        return self._host.run(
            *("ssh", "-F", str(self.ssh), machine, "sudo bash -s"), text=command + "\n", timeout=timeout
        )

    def logs(self) -> dict[str, str]:
        """The end of what the daemons and the kernel of each machine said."""
        units = "-u blockpaird -u blockpair-witness -u tour-web -u systemd-udevd"
        command = f"journalctl -q --no-pager -n 60 {units}; journalctl -q --no-pager -n 40 --dmesg"
        return {name: self.execute(name, command, 120 * self.patience).stdout for name in _MACHINES}

    def act(self, deed: Deed) -> None:
        if deed.act == "power-off":
            # Its end of the connection will never say that it is gone.
            self._host.run("ssh", "-F", str(self.ssh), "-O", "exit", deed.machine)
        for command in vagrant_words.commands(deed.act, deed.machine, deed.disk, _DISK_MIB):
            self._host.must(*command)
        if deed.act == "power-on":
            self.await_boot(deed.machine)

    def await_boot(self, machine: str) -> None:
        """Until its daemon is ready. Raises `LabError`."""
        deadline = time.monotonic() + _BOOT_S
        # The unit is of Type=notify: its start has ended when the daemon answers.
        while self.execute(machine, "systemctl start blockpaird", _BOOT_S).returncode:
            if time.monotonic() > deadline:
                raise LabError(f"{machine} did not come back within {_BOOT_S:g} s")
            time.sleep(1)


def emulated() -> bool:
    """Whether a processor must be emulated here: no /dev/kvm, or it is said so."""
    return os.environ.get("BLOCKPAIR_LIBVIRT") == "qemu" or not os.access("/dev/kvm", os.R_OK | os.W_OK)


def environment(host: Hypervisor, suite: str) -> dict[str, str]:
    """For Vagrant: everything it writes is in the lab's folder."""
    return {
        "VAGRANT_HOME": str(host.folder / "home"),
        "VAGRANT_DOTFILE_PATH": str(host.folder / "machines"),
        "VAGRANT_CWD": str(_ROOT / "vagrant"),
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "LIBVIRT_DEFAULT_URI": "qemu:///system",
        "BLOCKPAIR_BOX": f"blockpair/{suite}",
        "BLOCKPAIR_LIBVIRT": "qemu" if emulated() else "kvm",
        "BLOCKPAIR_DISK_MB": str(_DISK_MIB),
    }


def summary(outcomes: Sequence[Outcome], when: datetime, where: str) -> str:
    """As Markdown: date, durations, verdicts."""
    lines = [f"On {when:%Y-%m-%d}, {where}.", "", "| | Seconds | |", "| --- | ---: | --- |"]
    for outcome in outcomes:
        verdict = f"**failed**: `{outcome.wrong}`" if outcome.wrong else "as it should be"
        lines.append(f"| {outcome.title} | {outcome.seconds:.0f} | {verdict} |")
    return "\n".join(lines)


def where_it_ran(stage: Machines) -> str:
    """What the machines are, for the summary."""
    said = stage.execute(
        "alpha", '. /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r)"', 120
    ).stdout.strip()
    how = "software emulation, no `/dev/kvm`" if emulated() else "KVM"
    on = f"{os.cpu_count()} cores with a load of {os.getloadavg()[1]:.0f}"
    return f"{said}, libvirt with {how}, one processor and 1 GiB each, on {on}"


def run(
    host: Hypervisor, box: Path, suite: str, console: Console, *, keep: bool
) -> tuple[list[Outcome], str]:
    """The whole of it: what came of each step, and where it ran."""
    host.environment = environment(host, suite)
    outcomes: list[Outcome] = []

    def timed(title: str, *words: str, thrice: str = "") -> None:
        """A command of Vagrant's, which must say ``thrice`` of each machine."""
        began = time.monotonic()
        console.print(f"\n[bold]{title}[/]")
        said = host.must("vagrant", *words, "--no-tty", timeout=_UP_S)
        wrong = f"vagrant {words[0]}" if thrice and said.count(thrice) != len(_MACHINES) else ""
        outcomes.append(Outcome(title, time.monotonic() - began, wrong, wrong and said))
        console.print(said, markup=False, highlight=False)
        console.print(f"[green]{outcomes[-1].seconds:5.1f} s[/]  vagrant {words[0]}", highlight=False)

    host.must("vagrant", "box", "add", "--name", f"blockpair/{suite}", "--provider", "libvirt", str(box))
    timed("`vagrant up`: three machines, arrays, cluster, resource, service", "up")
    timed("`vagrant provision`: again, and nothing is changed", "provision", thrice=_UNCHANGED)
    stage = Machines(host, 6.0 if emulated() else 1.0)
    where = where_it_ran(stage)
    outcomes += perform((step for step in steps(TOUR.read_text()) if not step.setup), stage, console)
    for outcome in outcomes:
        if outcome.wrong:
            console.print(outcome.why, markup=False, highlight=False)
            for name, log in stage.logs().items():
                console.print(f"{name}\n{log}", markup=False, highlight=False)
    if keep:
        enter = shlex.join(host.enter(["ssh", "-F", str(stage.ssh), "alpha"]))
        console.print(f"\nkept until Ctrl-C: {enter}", markup=False, highlight=False)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    timed("`vagrant destroy`", "destroy", "-f")
    return outcomes, where


def main(words: Sequence[str]) -> int:
    """The exit code: 0 if all is as it should be."""
    parser = argparse.ArgumentParser(prog="scripts/lab vagrant", allow_abbrev=False)
    parser.add_argument("--suite", choices=_PYTHON, default="bookworm", help="Debian's release")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="write the summary into this page")
    parser.add_argument("--keep", action="store_true", help="keep the machines until Ctrl-C")
    chosen = parser.parse_args(words)
    summed_up = f"vagrant {chosen.suite}"
    if chosen.into:
        try:  # now, not after an hour
            place(chosen.into.read_text(), summed_up, "")
        except (OSError, MarkerMissing) as error:
            parser.error(f"--into {chosen.into}: {error}")
    cache = Path(os.environ.get("BLOCKPAIR_CACHE") or Path.home() / ".cache/blockpair") / "vagrant"
    wheels: list[str | Path] = [
        _ROOT / "scripts/wheels",
        "--python",
        _PYTHON[chosen.suite],
        _ROOT / "vagrant/wheels",
    ]
    subprocess.run(wheels, check=True)
    subprocess.run([_ROOT / "scripts/vagrant-box", "--suite", chosen.suite, cache], check=True)
    console = Console(soft_wrap=True)
    try:
        with Hypervisor(cache) as host:
            outcomes, where = run(
                host, cache / f"blockpair-{chosen.suite}.box", chosen.suite, console, keep=chosen.keep
            )
    except LabError as error:
        console.print(str(error), markup=False, highlight=False)
        return 1
    text = summary(outcomes, datetime.now(UTC), where)
    console.print(f"\n{text}", markup=False, highlight=False)
    if chosen.into:
        chosen.into.write_text(place(chosen.into.read_text(), summed_up, text))
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
