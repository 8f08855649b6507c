"""The guided tour of vagrant/tour.toml on three guests, each deed checked. Run it by scripts/lab uml."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.markup import escape
from tour import SOURCE as TOUR
from tour import Deed, Step, steps

from tests.lab.harness import SOURCE, Command, Guest, GuestSpec, Lab, LabError, LabUnavailable, Result
from tests.lab.network import address
from tests.lab.nodes import eventually
from tests.lab.tour_stage import Stage, perform
from tests.lab.trio import Witness

_ARRAY = "/dev/md/data"
_MOUNT = "/srv/data"
_FRONT, _BETWEEN = 0, 1  # the networks: to the rest of the world, and between the nodes


class Scene(Stage):
    """The three machines, with blockpair on them and nothing set up."""

    def __init__(self, lab: Lab) -> None:
        disks = (*(40,) * 5, 16)
        specs = (GuestSpec(name, disks, links=2) for name in ("alpha", "beta"))
        alpha, beta, third = lab.boot(*specs, GuestSpec("witness", (16,)), timeout=300)
        self._nodes = {"alpha": alpha, "beta": beta}
        self._guests: dict[str, Guest] = {**self._nodes, "witness": third}
        self._daemons: dict[str, Command] = {}
        self.words = {
            "alpha": alpha.addresses[_BETWEEN],
            "beta": beta.addresses[_BETWEEN],
            "alpha_front": alpha.addresses[_FRONT],
            "witness": third.address,
            "vip": address(_FRONT, 100),
            "front": f"vec{_FRONT}",
            **{f"disk{number}": disk for number, disk in enumerate(alpha.disks[:5], start=1)},
        }
        for name in self._nodes:
            self._prepare(name, first=True)
        witness = Witness(third)
        witness.prepare(first=True)
        third.run(_WEB)
        witness.launch()
        for name in self._nodes:
            self._await_daemon(name)
        witness.await_ready(300)

    def execute(self, machine: str, command: str, timeout: float) -> Result:
        return self._guests[machine].execute(command, timeout, check=False)

    def act(self, deed: Deed) -> None:
        machine = deed.machine
        guest = self._guests[machine]
        match deed.act:
            case "cut":
                guest.unplug(_BETWEEN)
            case "mend":
                guest.plug(_BETWEEN)
            case "pull-disk":
                # Its driver keeps the disk; to the array it is as gone as a pulled one.
                guest.run(f"mdadm --fail {_ARRAY} {guest.disks[deed.disk - 1]}")
            case "put-disk":
                guest.run(f"blockpair raid spare remove data {guest.disks[deed.disk - 1]}")
            case "power-off":
                guest.power_cut()
            case "power-on":
                guest.boot(300)
                self._prepare(machine, first=False)
                self._await_daemon(machine)

    def _prepare(self, name: str, *, first: bool) -> None:
        """What an installed system does by itself when it boots: its disks, its array, its services."""
        guest = self._nodes[name]
        *members, system = guest.disks
        assemble = f"mdadm --assemble --run {_ARRAY} {' '.join(members)} && [ -b {_ARRAY} ]"
        guest.run(
            "set -e\n"
            + (f"mkfs.ext4 -q {system}\n" if first else "")
            + f"mkdir -p /srv/system {_MOUNT} && mount {system} /srv/system\n"
            "mkdir -p /srv/system/{config,state}\n"
            "mount --bind /srv/system/config /etc/blockpair\n"
            "mount --bind /srv/system/state /var/lib/blockpair\n" + ("" if first else assemble + "\n") + _WEB
        )
        self._daemons[name] = guest.start("exec blockpaird --log-format console")
        guest.start(f"exec tour-web serve {name} {_MOUNT}/visits")

    def _await_daemon(self, name: str) -> None:
        daemon = self._daemons[name]
        eventually(lambda: "daemon.ready" in daemon.stderr, f"{name}'s daemon is ready: {daemon.stderr}", 300)


_WEB = f"ln -sf {SOURCE}/vagrant/tour-web /usr/local/bin/tour-web"


def run(lab: Lab, tour: list[Step], console: Console) -> None:
    """All of it, in an empty lab; says how long each deed took. Raises `LabError` at the first one that does
    not end as it must.
    """
    began = time.monotonic()
    scene = Scene(lab)
    console.print(f"[dim]{time.monotonic() - began:5.1f} s  three machines are up[/]")
    for outcome in perform(tour, scene, console):
        if outcome.wrong:
            raise LabError(outcome.why)
    console.print(f"\nall {len(tour)} steps as they should be, in {time.monotonic() - began:.0f} s")


def main() -> int:
    """Run it as a program; the exit code."""
    console = Console(soft_wrap=True)
    try:
        lab = Lab()
    except LabUnavailable as error:
        print(f"scripts/lab: {error}", file=sys.stderr)
        return 1
    with lab:
        try:
            run(lab, steps(TOUR.read_text()), console)
        except LabError as error:
            console.print(escape(str(error)))
            for name, log in lab.logs().items():
                console.print(f"[dim]{name}[/]\n{escape(log[-2500:])}", highlight=False)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
