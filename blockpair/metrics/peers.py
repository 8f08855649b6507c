"""The peers of the resources: connection, what their copies lack, the resync, the ways to them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blockpair.metrics.family import Family, Sample, counter, gauge, histogram
from blockpair.metrics.resources import DISKS, ROLES
from blockpair.status.engine import PeerStatus
from blockpair.status.report import StatusReport

_WHICH = ("resource", "peer")
_UNKNOWN = "unknown"
_CONNECTIONS = ("StandAlone", "Connecting", "Connected")
_REPLICATIONS = ("Off", "Waiting", "Established", "SyncSource", "SyncTarget")
_PATHS = ("active", "standby", "down")
_DIRECTIONS = ("to_peer", "from_peer")

CONNECTION = gauge("blockpair_peer_connection", "1 for the state of the connection", *_WHICH, "state")
REPLICATION = gauge("blockpair_peer_replication", "1 for the state of the replication", *_WHICH, "state")
PEER_ROLE = gauge("blockpair_peer_role", "1 for the role that the peer last said it has", *_WHICH, "role")
PEER_DISK = gauge(
    "blockpair_peer_disk", "1 for the state of its copy that the peer last said", *_WHICH, "state"
)
LAST_CONTACT = gauge(
    "blockpair_peer_last_contact_seconds", "Time since the peer was last heard of; absent: never", *_WHICH
)
SPLIT_BRAIN = gauge(
    "blockpair_peer_split_brain", "1: both nodes have changes that the other lacks, undecided", *_WHICH
)
OUT_OF_SYNC = gauge("blockpair_peer_out_of_sync_bytes", "What the peer's copy lacks, or may lack", *_WHICH)
SUSPECT = gauge("blockpair_peer_suspect_bytes", "What the next resync compares by checksum", *_WHICH)
FULL_SYNC = gauge("blockpair_peer_full_sync", "1: everything must be compared", *_WHICH)
UNACKED = gauge(
    "blockpair_peer_unacknowledged_messages", "Messages to the peer that it has not answered", *_WHICH
)
LAG_SECONDS = gauge(
    "blockpair_peer_lag_seconds",
    "On the Primary: age of the oldest write that the peer's disk is not known to have; 0: none; absent: "
    "not known",
    *_WHICH,
)
LAG_BYTES = gauge("blockpair_peer_lag_bytes", "On the Primary: what all of these changed", *_WHICH)
CONFIRMATION = histogram(
    "blockpair_peer_write_duration_seconds",
    "From the sending of a write to the peer's word that its disk has it",
    *_WHICH,
)
SENT = counter("blockpair_peer_sent_bytes_total", "Given to the sockets to the peer, with TLS", *_WHICH)
RECEIVED = counter("blockpair_peer_received_bytes_total", "Taken from these sockets, with TLS", *_WHICH)
SOCKET_SENT = counter(
    "blockpair_peer_socket_sent_bytes_total",
    "Sent by TCP, without what was sent again, as the kernel counts",
    *_WHICH,
)
SOCKET_RECEIVED = counter(
    "blockpair_peer_socket_received_bytes_total", "Received by TCP, as the kernel counts", *_WHICH
)
PATH = gauge(
    "blockpair_peer_path", "1 for the state of a way to the peer, by its address", *_WHICH, "address", "state"
)
RESYNC = gauge("blockpair_resync_running", "1 while a resync in that direction runs", *_WHICH, "direction")
RESYNC_SIZE = gauge("blockpair_resync_size_bytes", "What the running resync is about; 0: none runs", *_WHICH)
RESYNC_DONE = gauge("blockpair_resync_done_bytes", "What of it is done", *_WHICH)
RESYNC_SENT = gauge("blockpair_resync_sent_bytes", "What of it had to cross the network", *_WHICH)
RESYNC_RATE = gauge("blockpair_resync_bytes_per_second", "How fast it goes, on average", *_WHICH)
RESYNC_LEFT = gauge(
    "blockpair_resync_left_seconds", "When it will be done at that rate; absent: not known", *_WHICH
)
LAST_RESYNC_FINISHED = gauge(
    "blockpair_last_resync_finished", "1: the resync before was finished; 0: it was cut off", *_WHICH
)
LAST_RESYNC_SECONDS = gauge("blockpair_last_resync_seconds", "What it took", *_WHICH)
LAST_RESYNC_BYTES = gauge("blockpair_last_resync_done_bytes", "What it compared or copied", *_WHICH)


def peers(report: StatusReport) -> Iterator[Sample]:
    """Of every resource that runs."""
    for resource in report.resources:
        engine = resource.engine
        for peer in [] if engine is None else engine.peers:
            yield from _peer(resource.name, peer)
            if engine is not None and engine.latency is not None and peer.latency is not None:
                bounds, took = engine.latency.bounds_seconds, peer.latency
                which = (resource.name, peer.name)
                yield from CONFIRMATION.histogram(bounds, took.buckets, took.sum_seconds, *which)


def _peer(resource: str, peer: PeerStatus) -> Iterator[Sample]:
    which = (resource, peer.name)
    yield from CONNECTION.states(peer.connection, _CONNECTIONS, *which)
    yield from REPLICATION.states(peer.replication, _REPLICATIONS, *which)
    yield from PEER_ROLE.states(peer.role or _UNKNOWN, (*ROLES, _UNKNOWN), *which)
    yield from PEER_DISK.states(peer.disk or _UNKNOWN, (*DISKS, _UNKNOWN), *which)
    yield from LAST_CONTACT.known(peer.last_contact_seconds, *which)
    if peer.lag is not None:
        yield from LAG_SECONDS.known(peer.lag.seconds, *which)
        yield LAG_BYTES.sample(peer.lag.bytes, *which)
    values: tuple[tuple[Family, float], ...] = (
        (SPLIT_BRAIN, peer.split_brain),
        (OUT_OF_SYNC, peer.out_of_sync_bytes),
        (SUSPECT, peer.suspect_bytes),
        (FULL_SYNC, peer.full_sync),
        (UNACKED, peer.unacked),
        (SENT, peer.wire.sent_bytes),
        (RECEIVED, peer.wire.received_bytes),
        (SOCKET_SENT, peer.wire.kernel_sent_bytes),
        (SOCKET_RECEIVED, peer.wire.kernel_received_bytes),
    )
    for family, value in values:
        yield family.sample(value, *which)
    # Two paths may have one address where the peer dials from behind a router.
    for address, state in {path.address: path.state for path in peer.paths}.items():
        yield from PATH.states(state, _PATHS, *which, address)
    yield from _resync(which, peer)


def _resync(which: tuple[str, str], peer: PeerStatus) -> Iterator[Sample]:
    running = peer.resync
    for direction in _DIRECTIONS:
        yield RESYNC.sample(running is not None and running.direction == direction, *which, direction)
    yield RESYNC_SIZE.sample(running.total_bytes if running else 0, *which)
    yield RESYNC_DONE.sample(running.done_bytes if running else 0, *which)
    yield RESYNC_SENT.sample(running.sent_bytes if running else 0, *which)
    yield RESYNC_RATE.sample(running.rate_bytes_per_second if running else 0, *which)
    yield from RESYNC_LEFT.known(running.eta_seconds if running else None, *which)
    last = peer.last_resync
    if last is not None:
        yield LAST_RESYNC_FINISHED.sample(last.finished, *which)
        yield LAST_RESYNC_SECONDS.sample(last.elapsed_seconds, *which)
        yield LAST_RESYNC_BYTES.sample(last.done_bytes, *which)
