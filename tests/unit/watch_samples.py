"""Looks at a pair that is at work: for the tests of the live screen, and for its picture in the book.

``python -m tests.unit.watch_samples > docs/images/status-watch.svg`` draws the picture.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec
from rich.console import Console

from blockpair.cli.watch_view import Look, View
from blockpair.raid.model import Sync
from blockpair.status.advice import advice, healthy
from blockpair.status.report import (
    SCHEMA,
    ArbiterReport,
    EventRecord,
    KernelDeviceStatus,
    ResourceReport,
    ServiceStatus,
    StatusReport,
    VerifyStatus,
)
from tests.unit.raid_samples import array, member
from tests.unit.status_samples import ARBITRATION, engine, peer, resync

_BOUNDS = [(8 << power) / 1e6 for power in range(22)]
_DEVICE = KernelDeviceStatus(attached=True, link="/dev/blockpair/mail", path="/dev/nbd0")
# By an audit of the evening before.
_PROVED = VerifyStatus(
    running=False,
    done_bytes=200 << 30,
    total_bytes=200 << 30,
    ended="identical",
    reason=None,
    ended_at=1777573200,
    proved_share=1.0,
    oldest_proof_at=1777573200,
    findings=0,
    first_finding=None,
)
_EVENTS = [
    EventRecord(f"2026-05-01T08:{moment}Z", severity, name, text)
    for moment, severity, name, text in (
        ("14:02.118", "warning", "peer.lost", "connection to beta ended: no word for 2 s"),
        ("14:02.431", "info", "generation.new", "beta lacks what is written from here on"),
        ("21:40.007", "info", "handshake.verdict", "beta: this copy is newer"),
        ("21:40.052", "info", "resync.started", "to beta: 13.0 GiB"),
    )
]


def _histogram(first: int, counts: list[int]) -> dict[str, Any]:
    buckets = [0] * first + counts
    return {"buckets": buckets + [0] * (len(_BOUNDS) + 1 - len(buckets)), "sum_seconds": 1.0}


def _at_work(seconds: int) -> ResourceReport:
    """The resource mail on its Primary, after so long."""
    quiet = msgspec.to_builtins(engine().io)
    took = {
        "reads": _histogram(0, [900 * seconds, 240 * seconds, 12 * seconds]),
        "writes": _histogram(3, [10 * seconds, 1400 * seconds, 610 * seconds, 80 * seconds, 4 * seconds]),
        "flushes": _histogram(6, [30 * seconds, 9 * seconds, seconds]),
        "disk_reads": _histogram(0, [960 * seconds, 190 * seconds, 2 * seconds]),
        "disk_writes": _histogram(1, [1500 * seconds, 590 * seconds, 14 * seconds]),
    }
    beta = peer(
        name="beta",
        address="10.0.0.2:7788",
        replication="SyncSource",
        disk="Inconsistent",
        out_of_sync_bytes=9 << 30,
        resync=resync(
            total_bytes=13300 << 20,
            done_bytes=(4000 + 88 * seconds) << 20,
            rate_bytes_per_second=88 << 20,
            eta_seconds=105.0 - seconds,
        ),
        wire={
            "sent_bytes": (96 << 20) * seconds,
            "received_bytes": 0,
            "kernel_sent_bytes": 0,
            "kernel_received_bytes": 0,
        },
        lag={"seconds": 460.0 + seconds, "bytes": 9 << 30},
        latency=_histogram(3, [4 * seconds, 1200 * seconds, 800 * seconds, 96 * seconds, 4 * seconds]),
    )
    status = engine(
        beta,
        resource="mail",
        node="alpha",
        size_bytes=200 << 30,
        latency={"bounds_seconds": _BOUNDS, **took},
        io=quiet
        | {
            "writes": 2104 * seconds,
            "written_bytes": (8 << 20) * seconds,
            "reads": 1152 * seconds,
            "read_bytes": (18 << 20) * seconds,
            "flushes": 40 * seconds,
        },
        arbitration=ARBITRATION
        | {"epoch": 4, "configuration": {"epoch": 4, "primary": "alpha", "in_sync": ["alpha"]}},
    )
    arbiter = ArbiterReport("witness", "witness 10.0.0.3:7790", True, None, "answers", 21.0 + seconds)
    entries = advice("mail", "running", None, status, _DEVICE, arbiter=arbiter)
    return ResourceReport(
        "mail",
        "running",
        None,
        healthy(entries),
        "/dev/md/mail",
        "internal",
        [],
        None,
        _DEVICE,
        status,
        entries,
        _EVENTS,
        arbiter,
        ServiceStatus("up", None, None, ["192.0.2.10/24@eth0"], None),
        _PROVED,
    )


def looks() -> tuple[Look, Look]:
    """Two, a second apart: a Primary whose peer is brought up to date, its array rebuilding a member."""
    members = (member("sda", 0), member("sdb", 1), member("sdc", 2), member("sde", 3, frozenset({"spare"})))
    below = array("mail", members, slots=4, sync=Sync("recover", 310 << 20, 1 << 30, 44 << 20))
    found = []
    for seconds in (10, 11):
        resource = _at_work(seconds)
        time = f"2026-05-01T08:21:{40 + seconds}Z"
        report = StatusReport(SCHEMA, "0.1.0", "alpha", time, resource.healthy, [resource])
        found.append(Look(report, float(seconds), (below,)))
    return found[0], found[1]


def picture() -> str:
    """The screen, as SVG."""
    before, now = looks()
    console = Console(record=True, width=96, height=33, file=io.StringIO(), force_terminal=True)
    console.print(View(now, before))
    return console.export_svg(title="blockpair status --watch", unique_id="status-watch")


if __name__ == "__main__":
    print(picture())
