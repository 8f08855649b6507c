"""Asks the network for an address, and tells it who has one: AF_PACKET sockets, for IPv4 and IPv6 alike."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from blockpair.config.service import Vip
from blockpair.failover import frames
from blockpair.failover.frames import Claim

_LONGEST_FRAME = 2048


async def probe(vip: Vip) -> Claim | None:
    """Who else has the address, or probes for it too; None if nobody says so. Takes a quarter of a second.

    Raises `OSError` where the interface is not there, is down, or raw frames are not permitted.
    """
    address = vip.interface_address.ip
    with _open(vip) as link:
        mac = _mac(link)
        loop = asyncio.get_running_loop()

        async def listen() -> Claim:
            while True:
                frame = await loop.sock_recv(link, _LONGEST_FRAME)
                if isinstance(address, ipaddress.IPv4Address):
                    claim = frames.arp_claim(frame, mac, address)
                else:
                    claim = frames.neighbour_claim(frame, mac, address)
                if claim is not None:
                    return claim

        question = (
            frames.arp_probe(mac, address)
            if isinstance(address, ipaddress.IPv4Address)
            else frames.neighbour_probe(mac, address)
        )
        heard = asyncio.ensure_future(listen())
        try:
            for number in range(frames.PROBES):
                link.send(question)
                last = number == frames.PROBES - 1
                pause = frames.PROBE_LISTEN if last else frames.PROBE_PAUSE
                await asyncio.wait({heard}, timeout=pause)
                if heard.done():
                    return heard.result()
        finally:
            heard.cancel()
            # Until it has let go of the socket: its number may be another's in a moment.
            await asyncio.wait({heard})
        return None


def announce(vip: Vip) -> None:
    """Tell everybody on the link, once. Raises `OSError` as `probe` does."""
    address = vip.interface_address.ip
    with _open(vip) as link:
        mac = _mac(link)
        if isinstance(address, ipaddress.IPv4Address):
            for frame in frames.arp_announcements(mac, address):
                link.send(frame)
        else:
            link.send(frames.unsolicited_advertisement(mac, address, router=_forwards(vip.interface)))


class Announcer:
    """Repeats announcements for as long as this node holds the address, and not once longer.

    ``held`` tells whether it does. ``problem`` is told what kept an announcement from being sent.
    """

    def __init__(self, held: Callable[[Vip], Awaitable[bool]], problem: Callable[[str], None]) -> None:
        self._held = held
        self._problem = problem
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, vip: Vip) -> None:
        """Announce now and by the schedule. Raises `OSError` where the first cannot be sent."""
        self.end(vip)
        announce(vip)
        self._tasks[str(vip)] = asyncio.create_task(self._repeat(vip))

    def end(self, vip: Vip) -> None:
        """No more of it."""
        if (task := self._tasks.pop(str(vip), None)) is not None:
            task.cancel()

    async def _repeat(self, vip: Vip) -> None:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 1
        while True:
            await asyncio.sleep(max(0.0, began + frames.next_announcement(sent) - loop.time()))
            sent += 1
            try:
                # The guard may have taken it away, and it may be another's by now.
                if not await self._held(vip):
                    return
                announce(vip)
            except OSError as error:
                self._problem(f"{vip} could not be announced: {error.strerror}")


def _open(vip: Vip) -> socket.socket:
    protocol = frames.ETH_ARP if vip.version == 4 else frames.ETH_IPV6
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        # Bound with its protocol only here: before, frames of every interface would queue up.
        link.bind((vip.interface, protocol))
    except OSError:
        link.close()
        raise
    return link


def _mac(link: socket.socket) -> bytes:
    address = link.getsockname()[4]
    if len(address) != 6:
        raise OSError(f"{link.getsockname()[0]} is not an Ethernet interface")
    return bytes(address)


def _forwards(interface: str) -> bool:
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{interface}/forwarding").read_text().strip() not in ("", "0")
    except OSError:
        return False
