"""Conditions of a resource that a person or script waits for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from blockpair.status.engine import EngineStatus
from blockpair.status.report import ResourceReport


def copies_synced(engine: EngineStatus) -> bool:
    """Every copy is connected, good, and equal to this one."""
    return engine.disk == "UpToDate" and all(
        peer.connection == "Connected"
        and peer.replication == "Established"
        and peer.disk == "UpToDate"
        and peer.out_of_sync_bytes == 0
        and not peer.full_sync
        for peer in engine.peers
    )


def protected(engine: EngineStatus) -> bool:
    """This Primary may be lost: every peer has all, and where an arbiter decides, follows, and may go on by
    its word (SHRINK, GROW and LEASE in docs/spec/arbitration.md). By protocol A it lacks what is under way.
    """
    if engine.role != "Primary" or engine.resuming or engine.protocol == "A" or not copies_synced(engine):
        return False
    state = engine.arbitration
    if state is None:
        return True
    # One that was brought up without the arbiter acknowledges, and gives no word.
    follows = state.lease_seconds is not None and state.lease_seconds > 0
    named = state.configuration
    return follows and named is not None and all(peer.name in named.in_sync for peer in engine.peers)


def had_data(engine: EngineStatus) -> bool:
    """This node's copy belongs to a generation of the data: a first sync has been chosen, or has ended."""
    return bool(engine.generation.current.strip("0"))


def _each_peer(field: str, *values: str) -> Callable[[EngineStatus], bool]:
    return lambda engine: all(getattr(peer, field) in values for peer in engine.peers)


_ENGINE_CONDITIONS: dict[str, tuple[str, Callable[[EngineStatus], bool]]] = {
    "connected": ("every peer is connected", _each_peer("connection", "Connected")),
    "disconnected": ("no peer is connected", _each_peer("connection", "StandAlone", "Connecting")),
    "standalone": ("no peer is connected or tried", _each_peer("connection", "StandAlone")),
    "established": ("writes go to every peer", _each_peer("replication", "Established")),
    "syncing": (
        "a resync is running",
        lambda engine: any(peer.replication in ("SyncSource", "SyncTarget") for peer in engine.peers),
    ),
    "uptodate": ("this node's copy is good", lambda engine: engine.disk == "UpToDate"),
    "synced": ("all copies are good and equal", copies_synced),
    "protected": (
        "this node is Primary, and may be lost: the other has all, and goes on by the arbiter's word, or a "
        "person's where there is none; never by protocol A",
        protected,
    ),
    "primary": ("this node is Primary", lambda engine: engine.role == "Primary" and not engine.resuming),
    "secondary": ("this node is Secondary", lambda engine: engine.role == "Secondary"),
}

CONDITIONS: dict[str, str] = {
    "up": "the resource runs",
    "down": "the resource does not run",
    "healthy": "nothing is wrong: `blockpair status` would end with 0",
    **{name: meaning for name, (meaning, _) in _ENGINE_CONDITIONS.items()},
}


def holds(condition: str, report: ResourceReport) -> bool:
    """Whether a condition of `CONDITIONS` holds; those about the engine never do while it is not running."""
    match condition:
        case "up":
            return report.state == "running"
        case "down":
            return report.state == "down"
        case "healthy":
            return report.healthy
    _, test = _ENGINE_CONDITIONS[condition]
    return report.state == "running" and report.engine is not None and test(report.engine)


def missing(conditions: Sequence[str], report: ResourceReport) -> list[str]:
    """Those of ``conditions`` that do not hold."""
    return [condition for condition in conditions if not holds(condition, report)]


def summary(report: ResourceReport) -> str:
    """What a resource is, in half a line: role and disk, each peer, and who goes on by the arbiter's word."""
    engine = report.engine
    if engine is None:
        return report.state
    peers = ", ".join(
        f"{peer.name} {peer.connection}/{peer.replication}/{peer.disk or 'unknown'}" for peer in engine.peers
    )
    named = None if engine.arbitration is None else engine.arbitration.configuration
    word = (
        ""
        if named is None
        else f"; at the arbiter: Primary {named.primary}, in sync {', '.join(named.in_sync)}"
    )
    return f"{engine.role}, {engine.disk}; {peers}{word}"
