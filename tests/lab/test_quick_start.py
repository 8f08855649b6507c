"""The quick start on two servers, word for word: what the page has typed is what runs, on guests that have
its names, addresses, disk and interface.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.harness import SOURCE, Command, Guest, GuestSpec, Lab
from tests.lab.nodes import eventually

_PAGE = "docs/quick-start.md"
_SECTION = "## On two servers\n"
# Where one of the steps is on another page.
_ELSEWHERE = {"(failover.md#setting-it-up)": ("docs/failover.md", "## Setting it up\n")}
# There is no systemd here, and the program is there already: the unit that each of these has started.
_STARTS = {
    "scripts/install": "blockpaird",
    "scripts/install --witness": "blockpair-witness",
    "systemctl enable --now blockpair-witness": "blockpair-witness",
}
_ADDRESSES = {"alpha": "10.0.0.1", "beta": "10.0.0.2", "gamma": "10.0.0.3"}
_TOKEN, _ANY_TOKEN = re.compile(r"bpj1-\w\S*"), "bpj1-..."
_MARKED = 4096  # the block of the disks that tells one from the other


@dataclass(frozen=True)
class _Line:
    machine: str
    command: str


def _section(page: str, title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    text = (SOURCE / page).read_text()
    assert title in text, f"{page} has no {title!r}"
    return text.partition(title)[2].partition("\n## ")[0]


def _lines(text: str) -> Iterator[_Line]:
    """What is typed, of a part of a page."""
    for line in text.splitlines():
        for link, where in _ELSEWHERE.items():
            if link in line:
                yield from _lines(_section(*where))
        if line.startswith("    "):
            typed = re.fullmatch(r" +(alpha|beta|gamma|both)# +(.+?)( +# .*)?", line)
            assert typed, f"on which machine is it typed? {line}"
            machines = ("alpha", "beta") if typed[1] == "both" else (typed[1],)
            yield from (_Line(machine, typed[2]) for machine in machines)


def _steps() -> list[list[_Line]]:
    """By the page's numbers; the first is what stands before number 1."""
    return [list(_lines(step)) for step in re.split(r"(?m)^\d+\. ", _section(_PAGE, _SECTION))]


class _Servers:
    """The machines of the page, and what is typed there."""

    def __init__(self, lab: Lab) -> None:
        nodes = (GuestSpec(name, disks_mib=[48]) for name in ("alpha", "beta"))
        guests = lab.boot(*nodes, GuestSpec("gamma"))
        self.guests = {guest.name: guest for guest in guests}
        self._units: dict[tuple[str, str], Command] = {}
        self._token = ""
        for ready in [guest.start(_furnish(guest)) for guest in guests]:
            ready.wait()

    def type(self, lines: list[_Line]) -> str:
        """All of these; what they printed. Raises `LabError` at the first one that fails."""
        told = ""
        for line in lines:
            guest = self.guests[line.machine]
            if unit := _STARTS.get(line.command):
                self._start(guest, unit)
                continue
            self._await_units()
            command = line.command.replace(_ANY_TOKEN, self._token)
            if "cluster join" in command:
                # The page has it as it is printed, and the address that is to be added.
                assert command.partition(" --address")[0] in told, told
            printed = guest.run(command, 120)
            if found := _TOKEN.search(printed):
                self._token = found[0]
            told += printed
        self._await_units()
        return told

    def _start(self, guest: Guest, unit: str) -> None:
        if (guest.name, unit) not in self._units:
            text = (SOURCE / f"packaging/systemd/{unit}.service").read_text()
            [program] = re.findall(r"(?m)^ExecStart=/usr/bin/(.+)$", text)
            self._units[guest.name, unit] = guest.start(f"exec {program}")

    def _await_units(self) -> None:
        for (name, unit), command in self._units.items():
            eventually(lambda: ".ready" in command.stderr, f"{name}: {unit} is ready", 90)  # noqa: B023

    def served_by(self, name: str) -> None:
        """The device, the mount and the address are there, and nowhere else."""
        for guest in (self.guests["alpha"], self.guests["beta"]):
            codes = guest.run(
                "[ -b /dev/blockpair/data ]; echo $?\nmountpoint -q /srv/data; echo $?\n"
                "ip -o -4 address show dev eth0 | grep -q 192.0.2.10/24; echo $?"
            ).split()
            assert [code == "0" for code in codes] == [guest.name == name] * 3, (guest.name, codes)
        self.guests["gamma"].run("ping -c 1 -W 10 192.0.2.10")


def _furnish(guest: Guest) -> str:
    """The shell commands that make a guest what the page says of its machine."""
    commands = [
        "set -e",
        "modprobe -r nbd",  # nobody has loaded it on a real one
        "ip link set vec0 down && ip address flush dev vec0 && ip link set vec0 name eth0",
        f"ip address add {_ADDRESSES[guest.name]}/24 dev eth0 && ip link set eth0 up",
    ]
    for disk in guest.disks:
        mark = f"head -c 4096 /dev/zero | tr '\\0' {guest.name[0]}"
        commands += [
            f"cp -a {disk} /dev/sdb",
            f"{mark} | dd of=/dev/sdb bs=4096 count=1 seek={_MARKED} oflag=direct status=none",
        ]
    if not guest.disks:
        # Clients reach the virtual address from here.
        commands.append("ip address add 192.0.2.3/24 dev eth0")
    return "\n".join(commands)


def test_no_command_of_the_steps_is_told_in_passing_only() -> None:
    typed = {line.command for step in _steps() for line in step}
    passing = re.findall(r"`((?:blockpair|mkfs\S*|mount|mkdir|modprobe) [^`]+)`", _section(_PAGE, _SECTION))
    assert set(passing) <= typed


# Beside others on two processors; alone it takes half a minute.
@pytest.mark.timeout(400)
def test_word_for_word(lab: Lab) -> None:
    install, cluster, create, sync, use, arbiter, service, move = _steps()
    servers = _Servers(lab)
    alpha, beta, _ = servers.guests.values()

    servers.type(install)
    servers.type(cluster)
    servers.type(create)
    servers.type(sync)
    beta.run(f"dd if=/dev/sdb bs=4096 count=1 skip={_MARKED} iflag=direct | grep '^aaaa*$'")
    servers.type(use)
    alpha.run("blkid -p -t TYPE=ext4 /dev/blockpair/data")
    told = alpha.run("blockpair status")
    assert "no failover without a person" in told, told
    told = servers.type(arbiter)
    assert "10.0.0.3:7790, reachable" in told, told
    servers.type(service)
    servers.served_by("alpha")
    made = alpha.run("cat /srv/data/made")
    told = servers.type(move)
    servers.served_by("beta")
    assert made.strip() and made in told, told
    assert "data  Primary  UpToDate" in told, told
