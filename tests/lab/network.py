"""The lab's networks: bridges in a network namespace of its own, a cable a guest, and cuts in one direction.

A cable is a tap of the host. It is pulled by taking it off its bridge: set down, it would end UML's driver
for good. A cut in one direction is a filter at the receiver's tap that drops the frames of one sender,
broadcasts too, so that neither kernel is told of anything: as when a switch loses the frames of one port.
"""

from __future__ import annotations

import subprocess

from tests.lab.command import LabError

LINKS = 2  # networks of a lab, each with a bridge of its own
_DROP, _PASS = 2, 0xFFFF_FFFF  # what the kernel's TC_ACT_SHOT and TC_ACT_UNSPEC are
_SENDER = 8  # where the last four bytes of the sender's hardware address are in a frame


class NetworkError(LabError):
    """The host's network tools did not do what the lab asked for."""


def ip(*words: str) -> None:
    """Run ``ip``. Raises `NetworkError` with what it said."""
    _run(["ip", *words])


def address(link: int, number: int) -> str:
    """The IPv4 address of guest ``number`` on a network; 254 is the host's end of the bridge."""
    return f"10.{77 + link}.0.{number}"


def hardware_address(link: int, number: int) -> str:
    """A card keeps its address over reboots, or the neighbours' ARP tables would point to the old one."""
    return f"02:62:70:00:{link:02x}:{number:02x}"


class Network:
    """The bridges of one lab in the namespace ``namespace``, made at once. Guests have numbers from 1."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._filtered: set[str] = set()  # taps that have a place for filters
        ip("netns", "add", namespace)
        self._ip("link", "set", "lo", "up")
        for link in range(LINKS):
            bridge = _bridge(link)
            self._ip("link", "add", bridge, "type", "bridge", "forward_delay", "0")
            self._ip("address", "add", f"{address(link, 254)}/24", "dev", bridge)
            self._ip("link", "set", bridge, "up")

    def add(self, link: int, number: int) -> None:
        """Lay a guest's cable to a network, and put it in."""
        self._ip("tuntap", "add", tap(link, number), "mode", "tap")
        self._ip("link", "set", tap(link, number), "master", _bridge(link), "up")

    def unplug(self, link: int, number: int) -> None:
        """Pull a guest's cable out of a network."""
        self._ip("link", "set", tap(link, number), "nomaster")

    def plug(self, link: int, number: int) -> None:
        """Put a guest's cable back."""
        self._ip("link", "set", tap(link, number), "master", _bridge(link))

    def cut(self, sender: int, receiver: int, link: int = 0) -> None:
        """From now on nothing that guest ``sender`` sends reaches ``receiver``; the other direction stays."""
        device = tap(link, receiver)
        sought = int(hardware_address(link, sender).replace(":", "")[-8:], 16)
        program = (
            f"4,32 0 0 {_SENDER},"  # load that word
            f"21 0 1 {sought},"  # equal: the next line, else the one after it
            f"6 0 0 {_DROP},6 0 0 {_PASS}"
        )
        rule = f"egress protocol all prio {sender} bpf direct-action bytecode '{program}'"
        lines = [] if device in self._filtered else [f"qdisc add dev {device} clsact"]
        self._filtered.add(device)
        self._tc(*lines, f"filter add dev {device} {rule}")

    def mend(self, sender: int, receiver: int, link: int = 0) -> None:
        """End `cut`."""
        self._tc(f"filter delete dev {tap(link, receiver)} egress prio {sender}")

    def _tc(self, *lines: str) -> None:
        _run(["tc", "-n", self.namespace, "-batch", "-"], "".join(f"{line}\n" for line in lines))

    def _ip(self, *words: str) -> None:
        ip("-n", self.namespace, *words)


def tap(link: int, number: int) -> str:
    """The host's end of a guest's cable."""
    return f"tap{number}-{link}"


def _bridge(link: int) -> str:
    return f"br{link}"


def _run(command: list[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"'{' '.join(command)}': {done.stderr.strip()} {text or ''}".rstrip())
