"""What a resource did between two looks, from its counters and histograms."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.status.engine import EngineStatus
from blockpair.status.traffic import Row, quantile, traffic
from tests.unit.status_samples import engine, latency, peer

BOUNDS = [1e-05, 0.001, 0.1]
_QUIET = msgspec.to_builtins(engine().io)


def look(*, sent: int = 0, confirmed: list[int] | None = None, took: Any = None, **io: int) -> EngineStatus:
    """A Primary that has done so much since it came up."""
    wire = {"sent_bytes": sent, "received_bytes": 0, "kernel_sent_bytes": 0, "kernel_received_bytes": 0}
    told = {"buckets": confirmed or [0, 0, 0, 0], "sum_seconds": 0.0}
    return engine(peer(wire=wire, latency=told), latency=took or latency(), io=_QUIET | io)


def by_name(rows: list[Row]) -> dict[str, Row]:
    """The rows that are no part of another."""
    return {row.what: row for row in rows if not row.part}


def test_what_was_done_meanwhile_is_told_a_second_and_what_was_done_before_is_not() -> None:
    before = look(writes=100, written_bytes=409600, reads=7, took=latency(writes=[0, 0, 0, 100]))
    now = look(
        writes=300,
        written_bytes=1228800,
        reads=7,
        took=latency(writes=[200, 0, 0, 100]),
        confirmed=[0, 9, 0, 0],
    )
    rows = traffic(before, now, 2.0)
    writes, reads = by_name(rows)["writes"], by_name(rows)["reads"]
    assert (writes.per_second, writes.bytes_per_second) == (100, 409600)
    assert writes.half == pytest.approx(5e-06) and writes.most == pytest.approx(9.9e-06)
    assert (reads.per_second, reads.half) == (0, None)
    [at_peer] = [row for row in rows if row.what == "b"]
    assert at_peer.part and at_peer.half == pytest.approx(0.0005, rel=0.02)


def test_a_first_look_and_one_after_a_restart_know_no_rate() -> None:
    busy = look(writes=100, took=latency(writes=[0, 0, 0, 100]))
    for rows in (traffic(None, busy, 0.0), traffic(busy, look(writes=3), 1.0)):
        assert all(row.per_second is None and row.half is None for row in rows if not row.part)


def test_a_daemon_that_measures_nothing_yet_has_rates_all_the_same() -> None:
    old = [msgspec.structs.replace(look(writes=number), latency=None) for number in (1, 5)]
    writes = by_name(traffic(old[0], old[1], 1.0))["writes"]
    assert (writes.per_second, writes.half) == (4, None)


def test_a_share_lies_in_its_bucket() -> None:
    assert quantile(BOUNDS, [0, 0, 0, 0], 0.5) is None
    assert quantile(BOUNDS, [1, 0, 0, 0], 0.5) == pytest.approx(5e-06)
    assert quantile(BOUNDS, [0, 10, 0, 0], 0.5) == pytest.approx(0.000505)
    assert quantile(BOUNDS, [0, 0, 0, 1], 0.99) == float("inf")
    assert quantile(BOUNDS, [99, 0, 0, 1], 0.99) == pytest.approx(1e-05)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_greater_share_takes_no_less(counts: list[int], one: float, other: float) -> None:
    less, more = (quantile(BOUNDS, counts, share) for share in sorted((one, other)))
    assert (less is None) == (more is None) == (sum(counts) == 0)
    assert less is None or more is None or less <= more
