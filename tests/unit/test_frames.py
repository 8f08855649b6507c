"""ARP and neighbour discovery, by the bytes of RFC 826, 4861 and 5227."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from blockpair.failover import frames

OURS = bytes.fromhex("020000000001")
THEIRS = bytes.fromhex("0200000000fe")
FOUR = ipaddress.IPv4Address("192.0.2.10")
SIX = ipaddress.IPv6Address("2001:db8::ab:cdef")


def test_a_probe_is_from_nobody_and_for_the_address() -> None:
    frame = frames.arp_probe(OURS, FOUR)
    assert frame.hex() == (
        "ffffffffffff" "020000000001" "0806" "0001" "0800" "06" "04" "0001"
        "020000000001" "00000000" "000000000000" "c000020a"
    )  # fmt: skip


def test_an_announcement_has_the_address_as_sender_and_target_in_both_forms() -> None:
    request, reply = frames.arp_announcements(OURS, FOUR)
    assert request.hex().endswith("0001020000000001c000020a000000000000c000020a")
    assert reply.hex().endswith("0002020000000001c000020affffffffffffc000020a")
    assert request[:6] == reply[:6] == frames.BROADCAST


def test_who_has_the_address_or_asks_for_it_is_told_by_mac() -> None:
    reply = frames.arp_announcements(THEIRS, FOUR)[1]
    claim = frames.Claim("192.0.2.10", "02:00:00:00:00:fe")
    assert frames.arp_claim(reply, OURS, FOUR) == claim
    assert frames.arp_claim(frames.arp_probe(THEIRS, FOUR), OURS, FOUR) == claim
    # Ours, come back by another port of a bond; another's address; somebody who only looks for its host.
    assert frames.arp_claim(frames.arp_probe(OURS, FOUR), OURS, FOUR) is None
    assert frames.arp_claim(reply, OURS, ipaddress.IPv4Address("192.0.2.11")) is None
    asks = reply[:20] + struct.pack("!H", 1) + THEIRS + bytes([192, 0, 2, 77]) + bytes(6) + FOUR.packed
    assert frames.arp_claim(asks, OURS, FOUR) is None


def test_a_neighbour_probe_goes_to_the_solicited_node_group() -> None:
    frame = frames.neighbour_probe(OURS, SIX)
    assert frame[:6].hex() == "3333ffabcdef"
    assert frame[22:38] == bytes(16) and frame[38:54].hex() == "ff0200000000000000000001ffabcdef"
    assert frame[21] == 255 and frame[54] == 135 and frame[62:78] == SIX.packed
    assert verifies(frame)


def test_an_advertisement_overrides_and_keeps_a_router_a_router() -> None:
    for router, flags in ((False, "20000000"), (True, "a0000000")):
        frame = frames.unsolicited_advertisement(OURS, SIX, router=router)
        assert frame[:6].hex() == "333300000001" and frame[54] == 136
        assert frame[58:62].hex() == flags and frame[62:78] == SIX.packed
        assert frame[78:].hex() == "0201020000000001"
        assert verifies(frame)


def test_a_neighbour_that_has_the_address_is_told() -> None:
    claim = frames.Claim(str(SIX), "02:00:00:00:00:fe")
    advertisement = frames.unsolicited_advertisement(THEIRS, SIX, router=False)
    assert frames.neighbour_claim(advertisement, OURS, SIX) == claim
    assert frames.neighbour_claim(frames.neighbour_probe(THEIRS, SIX), OURS, SIX) == claim
    assert frames.neighbour_claim(advertisement, THEIRS, SIX) is None
    assert frames.neighbour_claim(advertisement, OURS, ipaddress.IPv6Address("2001:db8::1")) is None


@given(st.binary(max_size=120))
def test_any_frame_may_come(frame: bytes) -> None:
    assert frames.arp_claim(frame, OURS, FOUR) is None or FOUR.packed in frame
    assert frames.neighbour_claim(frame, OURS, SIX) is None or SIX.packed in frame


def test_announcements_come_often_at_first_and_never_stop() -> None:
    times = [frames.next_announcement(number) for number in range(len(frames.ANNOUNCE_AT) + 3)]
    assert times == sorted(times) and times[0] == 0 and len([t for t in times if t <= 1]) >= 5
    assert 10.0 in times and times[-1] - times[-2] == frames.ANNOUNCE_EVERY


def verifies(frame: bytes) -> bool:
    """The ICMPv6 checksum over pseudo header and message comes out right."""
    message = frame[54:]
    data = frame[22:54] + struct.pack("!II", len(message), 58) + message
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF
