"""The resources of the node: role, disk, what the application does. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from blockpair.metrics.family import Family, Sample, counter, gauge, histogram
from blockpair.status.engine import EngineStatus, Failed, Latency
from blockpair.status.report import ResourceReport, Severity, State, StatusReport

ROLES = ("Primary", "Secondary")
DISKS = ("Diskless", "Inconsistent", "Outdated", "Consistent", "UpToDate")

HEALTHY = gauge("blockpair_healthy", "1 while `blockpair status` finds nothing wrong with the node")
RESOURCE_STATE = gauge(
    "blockpair_resource_state", "1 for the state that the resource is in", "resource", "state"
)
RESOURCE_HEALTHY = gauge(
    "blockpair_resource_healthy",
    "1 while `blockpair status` finds nothing wrong with the resource",
    "resource",
)
ADVICE = gauge(
    "blockpair_resource_advice",
    "How many things `blockpair status` has to say of the resource, each with its remedy, by severity",
    "resource",
    "severity",
)
PROBLEM = gauge(
    "blockpair_resource_problem",
    "1 for each warning or critical thing that `blockpair status` says of the resource, by its stable code",
    "resource",
    "severity",
    "code",
)
ROLE = gauge("blockpair_resource_role", "1 for the node's role in the resource", "resource", "role")
RESUMING = gauge(
    "blockpair_resource_resuming", "1 while a restarted Primary waits for its peer's word", "resource"
)
DISK = gauge("blockpair_resource_disk", "1 for the state of this node's copy", "resource", "state")
SERVED_BY_PEER = gauge(
    "blockpair_resource_served_by_peer", "1 while a peer's copy stands in for this node's", "resource"
)
SUSPENDED = gauge(
    "blockpair_resource_suspended",
    "1 while the application's I/O waits; `blockpair status` says why",
    "resource",
)
WATCHDOG_WAIT = gauge(
    "blockpair_resource_watchdog_wait",
    "1 while a promotion, or a Primary's service, waits for the machine's watchdog",
    "resource",
)
SIZE = gauge("blockpair_resource_size_bytes", "Size of the resource", "resource")
HOT_EXTENTS = gauge(
    "blockpair_resource_hot_extents",
    "Extents in the write-intent log: those compared after a crash",
    "resource",
)
IN_FLIGHT = gauge(
    "blockpair_resource_requests_in_flight", "Requests of the application that are not answered", "resource"
)
IN_FLIGHT_BYTES = gauge("blockpair_resource_in_flight_bytes", "What these requests carry", "resource")
CLIENTS = gauge("blockpair_resource_clients", "Connections to the export, the kernel's too", "resource")
KERNEL_DEVICE = gauge("blockpair_resource_kernel_device", "1 while there is a kernel device", "resource")
KERNEL_DEVICE_FAILED = gauge(
    "blockpair_resource_kernel_device_failed", "1 while there is none and should be", "resource"
)
_SINCE_UP = "since the resource came up"
READS = counter("blockpair_resource_reads_total", f"Reads of the application {_SINCE_UP}", "resource")
READ_BYTES = counter("blockpair_resource_read_bytes_total", f"What it read {_SINCE_UP}", "resource")
WRITES = counter("blockpair_resource_writes_total", f"Writes of the application {_SINCE_UP}", "resource")
WRITTEN_BYTES = counter("blockpair_resource_written_bytes_total", f"What it wrote {_SINCE_UP}", "resource")
FLUSHES = counter("blockpair_resource_flushes_total", f"Flushes {_SINCE_UP}", "resource")
TRIMS = counter("blockpair_resource_trims_total", f"Requests to trim {_SINCE_UP}", "resource")
TRIMMED_BYTES = counter("blockpair_resource_trimmed_bytes_total", "What these trimmed", "resource")
ZEROES = counter("blockpair_resource_zeroes_total", f"Requests to write zeroes {_SINCE_UP}", "resource")
ZEROED_BYTES = counter("blockpair_resource_zeroed_bytes_total", "What these zeroed", "resource")
FAILED = counter(
    "blockpair_resource_failed_requests_total",
    f"Requests that the application got an error for {_SINCE_UP}: read, write, flush, trim, zero",
    "resource",
    "request",
)
DURATION = histogram(
    "blockpair_resource_request_duration_seconds",
    "What the application's requests took, as it sees it, those that succeeded: read, write, flush",
    "resource",
    "request",
)
DISK_DURATION = histogram(
    "blockpair_resource_disk_duration_seconds",
    "What this node's disk took for them, from when it was asked: read, write",
    "resource",
    "request",
)
HEALED_READS = counter(
    "blockpair_resource_healed_reads_total",
    f"Reads that the disk failed, that the peer answered, and whose blocks were written anew, {_SINCE_UP}",
    "resource",
)
HEALED_BYTES = counter("blockpair_resource_healed_bytes_total", "What these read", "resource")
WARM_KNOWN = gauge(
    "blockpair_resource_warm_known_bytes", "What is known here to be what the Primary reads most", "resource"
)
WARM_LEFT = gauge("blockpair_resource_warm_left_bytes", "What of it is still to be read ahead", "resource")
WARM_HELD = gauge(
    "blockpair_resource_warm_held_bytes", "What was read ahead and is held in memory", "resource"
)
WARM_READS = counter(
    "blockpair_resource_warm_reads_total", f"Reads that were answered from there {_SINCE_UP}", "resource"
)


def node(report: StatusReport) -> Iterator[Sample]:
    """The node as a whole, and each of its resources."""
    yield HEALTHY.sample(report.healthy)
    for entry in report.resources:
        yield from resource(entry)


def resource(report: ResourceReport) -> Iterator[Sample]:
    """A resource, up or not."""
    name = report.name
    yield from RESOURCE_STATE.states(report.state, get_args(State), name)
    yield RESOURCE_HEALTHY.sample(report.healthy, name)
    severities = [entry.severity for entry in report.advice]
    for severity in get_args(Severity):
        yield ADVICE.sample(severities.count(severity), name, severity)
    for severity, code in sorted({(e.severity, e.code) for e in report.advice if e.severity != "info"}):
        yield PROBLEM.sample(1, name, severity, code)
    yield KERNEL_DEVICE.sample(report.kernel_device.attached, name)
    yield KERNEL_DEVICE_FAILED.sample(report.kernel_device.error is not None, name)
    if report.engine is not None:
        yield from _engine(name, report.engine)


def _engine(name: str, engine: EngineStatus) -> Iterator[Sample]:
    yield from ROLE.states(engine.role, ROLES, name)
    yield from DISK.states(engine.disk, DISKS, name)
    arbitrated = engine.arbitration is not None and engine.arbitration.suspended is not None
    io, requests = engine.io, engine.requests
    values: tuple[tuple[Family, float], ...] = (
        (RESUMING, engine.resuming),
        (SERVED_BY_PEER, engine.served_by is not None),
        (SUSPENDED, arbitrated or engine.suspended is not None),
        (WATCHDOG_WAIT, engine.watchdog is not None),
        (SIZE, engine.size_bytes),
        (HOT_EXTENTS, engine.hot_extents),
        (IN_FLIGHT, requests.in_flight),
        (IN_FLIGHT_BYTES, requests.in_flight_bytes),
        (CLIENTS, len(engine.clients)),
        (READS, io.reads),
        (READ_BYTES, io.read_bytes),
        (WRITES, io.writes),
        (WRITTEN_BYTES, io.written_bytes),
        (FLUSHES, io.flushes),
        (TRIMS, io.trims),
        (TRIMMED_BYTES, io.trimmed_bytes),
        (ZEROES, io.zeroes),
        (ZEROED_BYTES, io.zeroed_bytes),
        (HEALED_READS, io.healed_reads),
        (HEALED_BYTES, io.healed_bytes),
        (WARM_KNOWN, engine.warm_up.known_bytes),
        (WARM_LEFT, engine.warm_up.left_bytes),
        (WARM_HELD, engine.warm_up.held_bytes),
        (WARM_READS, engine.warm_up.answered_reads),
    )
    for family, value in values:
        yield family.sample(value, name)
    yield from _failed(name, engine.failed)
    if engine.latency is not None:
        yield from _latency(name, engine.latency)


def _failed(name: str, failed: Failed) -> Iterator[Sample]:
    counts = {
        "read": failed.reads,
        "write": failed.writes,
        "flush": failed.flushes,
        "trim": failed.trims,
        "zero": failed.zeroes,
    }
    for request, count in counts.items():
        yield FAILED.sample(count, name, request)


def _latency(name: str, latency: Latency) -> Iterator[Sample]:
    for family, request, took in (
        (DURATION, "read", latency.reads),
        (DURATION, "write", latency.writes),
        (DURATION, "flush", latency.flushes),
        (DISK_DURATION, "read", latency.disk_reads),
        (DISK_DURATION, "write", latency.disk_writes),
    ):
        yield from family.histogram(latency.bounds_seconds, took.buckets, took.sum_seconds, name, request)
