"""A healthy status to change for a test."""

from __future__ import annotations

from typing import Any

import msgspec

from blockpair.status.engine import EngineStatus, PeerStatus, Resync

_PEER: dict[str, Any] = {
    "slot": 0,
    "name": "b",
    "address": "10.0.0.2:7788",
    "paths": [{"address": "10.0.0.2:7788", "state": "active", "since_seconds": 60.0, "why": None}],
    "tls": True,
    "cipher": "TLS13_AES_256_GCM_SHA384",
    "untrusted": None,
    "connection": "Connected",
    "replication": "Established",
    "role": "Secondary",
    "disk": "UpToDate",
    "last_contact_seconds": 0.1,
    "refusal": None,
    "rule": "equal",
    "split_brain": False,
    "resolving": None,
    "out_of_sync_bytes": 0,
    "suspect_bytes": 0,
    "full_sync": False,
    "resync": None,
    "last_resync": None,
    "unacked": 0,
    "wire": {"sent_bytes": 1, "received_bytes": 2, "kernel_sent_bytes": 3, "kernel_received_bytes": 4},
}
_ENGINE: dict[str, Any] = {
    "resource": "r0",
    "resource_id": "0" * 32,
    "node": "a",
    "state": "running",
    "failure": None,
    "role": "Primary",
    "resuming": False,
    "disk": "UpToDate",
    "disk_error": None,
    "served_by": None,
    "size_bytes": 1 << 30,
    "block_size_bytes": 4096,
    "extent_size_bytes": 4 << 20,
    "protocol": "C",
    "split_brain_policy": "discard-zero-changes",
    "priority": 0,
    "generation": {"current": "1" * 16, "history": []},
    "hot_extents": 0,
    "suspended": None,
    "requests": {"in_flight": 0, "in_flight_bytes": 0},
    "io": {
        "reads": 0,
        "read_bytes": 0,
        "writes": 0,
        "written_bytes": 0,
        "flushes": 0,
        "trims": 0,
        "zeroes": 0,
        "healed_reads": 0,
        "healed_bytes": 0,
    },
    "warm_up": {"known_bytes": 0, "left_bytes": 0, "held_bytes": 0, "answered_reads": 0},
    "backing": {"path": "/dev/md/r0", "kind": "block", "direct": True, "driver": "io_uring"},
    "metadata": {"kind": "internal", "path": "/dev/md/r0"},
    "clients": [],
}

# Of a Primary in epoch 3, with a and b in sync.
ARBITRATION: dict[str, Any] = {
    "epoch": 3,
    "promised": 3,
    "configuration": {"epoch": 3, "primary": "a", "in_sync": ["a", "b"]},
    "joint": False,
    "lease_seconds": 1.5,
    "promise_seconds": None,
    "want": None,
    "want_seconds": None,
    "asking": False,
    "suspended": None,
    "why": None,
    "superseded": None,
    "resource_id": "0" * 32,
}


def peer(**changes: Any) -> PeerStatus:
    """Peer b, connected and in sync, but for ``changes``."""
    return msgspec.convert(_PEER | changes, PeerStatus)


def engine(*peers: PeerStatus, **changes: Any) -> EngineStatus:
    """Node a, Primary with a good copy and the peers given, but for ``changes``."""
    made = msgspec.convert({**_ENGINE, "peers": [], **changes}, EngineStatus)
    return msgspec.structs.replace(made, peers=list(peers or (peer(),)))


def resync(**changes: Any) -> Resync:
    """A resync to the peer, a quarter done."""
    base: dict[str, Any] = {
        "direction": "to_peer",
        "total_bytes": 4 << 30,
        "done_bytes": 1 << 30,
        "same_bytes": 0,
        "sent_bytes": 1 << 30,
        "elapsed_seconds": 10.0,
        "rate_bytes_per_second": 1e8,
        "eta_seconds": 32.0,
    }
    return msgspec.convert(base | changes, Resync)


def latency(**buckets: list[int]) -> dict[str, Any]:
    """How long requests took, in four buckets, each kind half a second in all if any was counted."""
    bounds = [1e-05, 0.001, 0.1]
    kinds = ("reads", "writes", "flushes", "disk_reads", "disk_writes")
    counted = {kind: buckets.get(kind, [0] * (len(bounds) + 1)) for kind in kinds}
    return {
        "bounds_seconds": bounds,
        **{
            kind: {"buckets": counts, "sum_seconds": 0.5 if any(counts) else 0.0}
            for kind, counts in counted.items()
        },
    }
