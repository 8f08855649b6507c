"""ARP and neighbour discovery as bytes, and when they are sent. Pure.

Before an address is claimed the network is asked for it (RFC 5227, with shorter pauses: a failover waits
for this); once it is there, everybody is told, again and again, because a frame may be lost and a switch
may be slow to learn.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6
PROBES = 3
PROBE_PAUSE = 0.05
"""Seconds between two probes."""
PROBE_LISTEN = 0.15
"""Seconds to listen on after the last one."""
ANNOUNCE_AT = (0.0, 0.05, 0.15, 0.4, 1.0, 2.0, 4.0, 7.0, 10.0)
"""Seconds after the claim."""
ANNOUNCE_EVERY = 60.0
"""Seconds between two announcements later on, as long as the address is here."""

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_ICMPV6 = 58
_SOLICIT, _ADVERTISE = 135, 136
_TARGET_LINK_ADDRESS = 2
_OVERRIDE, _ROUTER = 0x2000_0000, 0x8000_0000
_UNSPECIFIED = ipaddress.IPv6Address("::")
_ALL_NODES = ipaddress.IPv6Address("ff02::1")


@dataclass(frozen=True)
class Claim:
    """A frame by which somebody else has an address, or is about to take it."""

    address: str
    mac: str


def mac_text(mac: bytes) -> str:
    """``02:00:5e:00:00:01``."""
    return mac.hex(":")


def next_announcement(sent: int) -> float:
    """Seconds after the claim at which announcement number ``sent`` (from 0) is due."""
    late = sent - len(ANNOUNCE_AT) + 1
    return ANNOUNCE_AT[sent] if late <= 0 else ANNOUNCE_AT[-1] + late * ANNOUNCE_EVERY


def arp_probe(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """Who has ``address``? From nobody, so that no cache learns it."""
    return _arp(_REQUEST, mac, ipaddress.IPv4Address(0), bytes(6), address)


def arp_announcements(mac: bytes, address: ipaddress.IPv4Address) -> list[bytes]:
    """``address`` is at ``mac``: as a request (RFC 5227) and as a reply, since some hosts heed only one."""
    return [
        _arp(_REQUEST, mac, address, bytes(6), address),
        _arp(_REPLY, mac, address, BROADCAST, address),
    ]


def _arp(
    operation: int,
    mac: bytes,
    sender: ipaddress.IPv4Address,
    target_mac: bytes,
    target: ipaddress.IPv4Address,
) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, operation, mac, sender.packed, target_mac, target.packed)
    return BROADCAST + mac + struct.pack("!H", ETH_ARP) + body


def arp_claim(frame: bytes, mac: bytes, address: ipaddress.IPv4Address) -> Claim | None:
    """Whether ``frame`` shows that another than ``mac`` has ``address`` or probes for it at this moment."""
    if len(frame) < 14 + _ARP.size or frame[12:14] != struct.pack("!H", ETH_ARP):
        return None
    hardware, protocol, hardware_size, size, operation, sender_mac, sender, _, target = _ARP.unpack_from(
        frame, 14
    )
    if (hardware, protocol, hardware_size, size) != (1, 0x0800, 6, 4) or sender_mac == mac:
        return None
    has = sender == address.packed
    wants = operation == _REQUEST and sender == bytes(4) and target == address.packed
    return Claim(str(address), mac_text(sender_mac)) if has or wants else None


def neighbour_probe(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """Duplicate address detection's question (RFC 4862): who has ``address``? From nobody."""
    group = ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])
    return _icmp(mac, _UNSPECIFIED, group, struct.pack("!BBHI", _SOLICIT, 0, 0, 0) + address.packed)


def unsolicited_advertisement(mac: bytes, address: ipaddress.IPv6Address, *, router: bool) -> bytes:
    """``address`` is at ``mac``, whatever a cache says (override). ``router``: this host forwards; saying
    otherwise would take it off its neighbours' lists of routers.
    """
    flags = _OVERRIDE | (_ROUTER if router else 0)
    body = struct.pack("!BBHI", _ADVERTISE, 0, 0, flags) + address.packed
    return _icmp(mac, address, _ALL_NODES, body + struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + mac)


def neighbour_claim(frame: bytes, mac: bytes, address: ipaddress.IPv6Address) -> Claim | None:
    """As `arp_claim`, for an advertisement of ``address`` or another's probe for it."""
    # 14 of Ethernet, 40 of IPv6, 24 of the message up to its target.
    if len(frame) < 14 + 40 + 24 or frame[12:14] != struct.pack("!H", ETH_IPV6) or frame[20] != _ICMPV6:
        return None
    kind, sender, target, source = frame[54], frame[6:12], frame[62:78], frame[22:38]
    if sender == mac or target != address.packed:
        return None
    if kind == _ADVERTISE or (kind == _SOLICIT and source == bytes(16)):
        return Claim(str(address), mac_text(sender))
    return None


def _icmp(mac: bytes, source: ipaddress.IPv6Address, group: ipaddress.IPv6Address, message: bytes) -> bytes:
    pseudo = source.packed + group.packed + struct.pack("!II", len(message), _ICMPV6)
    checksum = _checksum(pseudo + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    # Hop limit 255: who gets it knows that no router has passed it on.
    header = struct.pack("!IHBB", 0x6000_0000, len(message), _ICMPV6, 255) + source.packed + group.packed
    return b"\x33\x33" + group.packed[12:] + mac + struct.pack("!H", ETH_IPV6) + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
