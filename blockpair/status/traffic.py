"""What a resource did between two looks at it: how much a second, and how long it took. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from blockpair.status.engine import EngineStatus, Histogram, PeerStatus

HALF, MOST = 0.5, 0.99


class Row(Struct, frozen=True):
    """A line of the traffic. ``part``: of the line before, a place where its requests spend their time.
    ``half`` and ``most``: seconds within which half of those that ended were done, and 99 %; infinite beyond
    what is counted, null where none ended.
    """

    what: str
    part: bool = False
    per_second: float | None = None
    bytes_per_second: float | None = None
    half: float | None = None
    most: float | None = None


def traffic(before: EngineStatus | None, now: EngineStatus, seconds: float) -> list[Row]:
    """Of the Primary, whose application it is, from ``before`` (null: there was no look yet) to ``now``,
    ``seconds`` later. Nothing is known of a resource that came up in between.
    """
    if before is not None and _began_anew(before, now):
        before = None

    def rate(counter: str) -> float | None:
        if before is None or seconds <= 0:
            return None
        return float(getattr(now.io, counter) - getattr(before.io, counter)) / seconds

    return [
        Row("writes", False, rate("writes"), rate("written_bytes"), *_took(before, now, "writes")),
        Row("this disk", True, None, None, *_took(before, now, "disk_writes")),
        *(_peer(before, now, peer, seconds) for peer in now.peers),
        Row("reads", False, rate("reads"), rate("read_bytes"), *_took(before, now, "reads")),
        Row("this disk", True, None, None, *_took(before, now, "disk_reads")),
        Row("flushes", False, rate("flushes"), None, *_took(before, now, "flushes")),
    ]


def _peer(before: EngineStatus | None, now: EngineStatus, peer: PeerStatus, seconds: float) -> Row:
    known = [] if before is None or seconds <= 0 else before.peers
    past = next((other for other in known if other.name == peer.name), None)
    if past is None:
        return Row(peer.name, True)
    sent = max(0, peer.wire.sent_bytes - past.wire.sent_bytes) / seconds
    if now.latency is None or past.latency is None or peer.latency is None:
        return Row(peer.name, True, None, sent)
    return Row(peer.name, True, None, sent, *_shares(now.latency.bounds_seconds, past.latency, peer.latency))


def _began_anew(before: EngineStatus, now: EngineStatus) -> bool:
    counters = ((status.io.writes, status.io.reads, status.io.flushes) for status in (before, now))
    return any(later < earlier for earlier, later in zip(*counters, strict=True))


def _took(before: EngineStatus | None, now: EngineStatus, which: str) -> tuple[float | None, float | None]:
    if before is None or before.latency is None or now.latency is None:
        return None, None
    past: Histogram = getattr(before.latency, which)
    present: Histogram = getattr(now.latency, which)
    return _shares(now.latency.bounds_seconds, past, present)


def _shares(
    bounds: Sequence[float], past: Histogram, present: Histogram
) -> tuple[float | None, float | None]:
    counts = [later - earlier for earlier, later in zip(past.buckets, present.buckets, strict=True)]
    return quantile(bounds, counts, HALF), quantile(bounds, counts, MOST)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Seconds within which that share of what was counted was done, taking a bucket's for evenly spread in
    it; infinite in the last bucket, null where nothing was counted.
    """
    total = sum(counts)
    if total <= 0:
        return None
    wanted, seen = share * total, 0
    for (low, high), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return float("inf")
