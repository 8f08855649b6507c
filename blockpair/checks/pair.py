"""What is checked between nodes: ways, clocks, versions, copies. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from blockpair.checks.facts import Clocks, CopyFacts, NodeFacts, Way
from blockpair.checks.finding import Finding
from blockpair.units import format_duration, format_size

# By protocol C a write takes one round trip at least.
_SLOW_SECONDS = 0.005
_LEAST_MBPS = 1000
_MOST_APART = 1.0
# Of an IP packet: the loopback's MTU is larger.
_LARGEST = 65535
# Beyond what a new certificate is dated back by, the other node does not take it.
_FAR_APART = 3600.0


def ways_findings(ways: Sequence[Way]) -> Iterator[Finding]:
    """Of each way: does it lead there, is it wide and quick enough, is it the same both ways."""
    for way in ways:
        yield _reached(way)
    for _, group in groupby(
        sorted(ways, key=lambda way: (way.origin, way.to, _host(way))),
        key=lambda way: (way.origin, way.to, _host(way)),
    ):
        reached = [way for way in group if way.seconds is not None]
        if reached:
            yield from _link(reached)
    yield from _frames(ways)


def _host(way: Way) -> str:
    return way.address.rpartition(":")[0]


def _reached(way: Way) -> Finding:
    title = f"{way.to}'s {way.port} port {way.address}"
    if way.why is not None:
        # Who sorts first dials; the other one asks by that port what a connect would do.
        grave = way.port == "control" or way.origin < way.to
        return Finding(
            "port",
            way.origin,
            "error" if grave else "warning",
            f"{title} cannot be reached from {way.origin}: {way.why}",
            "nothing is agreed on over it" if way.port == "control" else "nothing is replicated over it",
            f"see that blockpaird runs on {way.to} and listens there (`ss -ltn`), and that no firewall on "
            "either node or between them holds TCP to that port back (`nft list ruleset`)",
        )
    if way.large is not None:
        return Finding(
            "port",
            way.origin,
            "error",
            f"{title} answers, and not to what is large: {way.large}",
            "large packets are lost on the way: its MTU is smaller than the nodes take it to be",
            f"ping -M do -s 1472 {_host(way).strip('[]')} shows where; set the same MTU on all of "
            "the way, and let ICMP 'fragmentation needed' through",
        )
    return Finding("port", way.origin, "ok", f"{way.origin} reaches {title}")


def _link(ways: Sequence[Way]) -> Iterator[Finding]:
    first = ways[0]
    to = f"{first.origin} to {first.to} ({_host(first)})"
    took = min(way.seconds for way in ways if way.seconds is not None)
    if took > _SLOW_SECONDS:
        yield Finding(
            "latency",
            first.origin,
            "warning",
            f"from {to}, a round trip takes {took * 1000:.1f} ms",
            "by protocol C each write waits that long",
            "use a shorter way; or protocol A, which acknowledges before the peer has the data",
        )
    else:
        yield Finding("latency", first.origin, "ok", f"from {to}, a round trip takes {took * 1000:.2f} ms")
    if first.half_duplex or (first.mbps is not None and first.mbps < _LEAST_MBPS):
        rate = "half duplex" if first.half_duplex else f"{first.mbps} Mbit/s"
        yield Finding(
            "link-rate",
            first.origin,
            "warning",
            f"the link {first.interface} from {to} runs at {rate}",
            "it bounds every write, and how long a resync takes",
            f"see what both ends negotiated (`ethtool {first.interface}`), the cable and the switch",
        )
    elif first.mbps is not None:
        yield Finding("link-rate", first.origin, "ok", f"{first.interface} from {to}: {first.mbps} Mbit/s")
    if first.path_mtu is not None and first.mtu is not None and first.path_mtu < min(first.mtu, _LARGEST):
        yield Finding(
            "mtu",
            first.origin,
            "warning",
            f"from {to}, packets of {first.path_mtu} bytes pass, and {first.interface} has MTU {first.mtu}",
            "something between the nodes takes smaller packets than they do",
            f"set the MTU of the switches on the way to {first.mtu}, or that of {first.interface} to "
            f"{first.path_mtu}",
        )


def _frames(ways: Sequence[Way]) -> Iterator[Finding]:
    """Whether both ends of a way have the same MTU. The addresses of two nodes are in the same order."""
    nodes = sorted({way.origin for way in ways})
    for one in nodes:
        for other in nodes:
            if one >= other:
                continue
            there = [way for way in ways if (way.origin, way.to, way.port) == (one, other, "control")]
            back = [way for way in ways if (way.origin, way.to, way.port) == (other, one, "control")]
            for out, home in zip(there, back, strict=False):
                if out.mtu is None or home.mtu is None:
                    continue
                what = f"{out.interface} on {one} has MTU {out.mtu}, {home.interface} on {other} {home.mtu}"
                if out.mtu == home.mtu:
                    yield Finding("mtu", one, "ok", what)
                else:
                    yield Finding(
                        "mtu",
                        one,
                        "warning",
                        what,
                        "what the one sends in one packet the other may not take",
                        f"ip link set dev INTERFACE mtu {min(out.mtu, home.mtu)} on the one that has "
                        "more, or raise the other's and the switches'",
                    )


def clock_finding(node: str, clocks: Clocks) -> Finding:
    """How far the clocks of two nodes are apart."""
    least = max(0.0, abs(clocks.ahead) - clocks.give_or_take)
    direction = "ahead of" if clocks.ahead > 0 else "behind"
    what = f"the clock of {clocks.node} is {format_duration(abs(clocks.ahead))} {direction} that of {node}"
    if least <= _MOST_APART:
        return Finding("clock-offset", node, "ok", f"the clocks of {node} and {clocks.node} agree")
    return Finding(
        "clock-offset",
        node,
        "error" if least > _FAR_APART else "warning",
        what,
        "certificates are judged by the clock, and the two nodes' logs are compared by it",
        "have both synchronise with the same servers: `timedatectl` on both",
    )


def pair_findings(own: NodeFacts, other: NodeFacts) -> Iterator[Finding]:
    """What must be the same on both."""
    if own.version != other.version:
        yield Finding(
            "version",
            own.node,
            "warning",
            f"{own.node} has blockpair {own.version}, {other.node} {other.version}",
            "for the time of an update only",
            "install the same version on both",
        )
    else:
        yield Finding("version", own.node, "ok", f"both have blockpair {own.version}")
    theirs = {copy.name: copy for copy in other.copies}
    for copy in own.copies:
        if copy.name in theirs:
            yield from _sizes(own.node, copy, other.node, theirs[copy.name])


def _sizes(here: str, own: CopyFacts, there: str, other: CopyFacts) -> Iterator[Finding]:
    if own.data_bytes is None or other.data_bytes is None:
        return
    sizes = f"{format_size(own.data_bytes)} on {here}, {format_size(other.data_bytes)} on {there}"
    if own.data_bytes != other.data_bytes:
        yield Finding(
            "size",
            here,
            "error",
            f"{own.name}: {sizes} ({own.data_bytes} and {other.data_bytes} bytes)",
            "copies of different size do not connect",
            "give the smaller copy a device as large as the other's, there: "
            f"blockpair create {own.name} --anew --device PATH",
        )
    elif own.block_bytes != other.block_bytes:
        yield Finding(
            "size",
            here,
            "error",
            f"{own.name}: blocks of {own.block_bytes} bytes on {here}, of {other.block_bytes} on {there}",
            "copies with other blocks do not connect",
            f"create {own.name} on one of the nodes anew, with the block size of the other",
        )
    else:
        yield Finding("size", here, "ok", f"{own.name}: {format_size(own.data_bytes)} on both nodes")
