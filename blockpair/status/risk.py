"""What `promote --force` puts at risk, by what this node knows at that moment. Pure."""

from __future__ import annotations

from msgspec import Struct

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.conditions import had_data
from blockpair.status.engine import EngineStatus, PeerStatus
from blockpair.units import format_duration, format_size


class PeerRisk(Struct, frozen=True):
    """One peer, as it was known last; ``seconds_ago`` null: it was not heard of since this daemon started.

    ``lacking_bytes``: what this copy is known to lack of the peer's; ``possible_bytes``: at most so much may
    the peer have, acknowledged to its users, that this copy lacks.
    """

    peer: str
    connection: str
    role: str | None
    disk: str | None
    seconds_ago: float | None
    lacking_bytes: int
    possible_bytes: int


class Risk(Struct, frozen=True):
    """``new``: this copy never had data; ``disk``: its state; ``waits``: this node is Primary already, and
    its I/O waits; ``waiting_bytes``: so much of it; ``epoch`` null: there is no arbiter.
    """

    resource: str
    node: str
    new: bool
    disk: str
    waits: bool
    waiting_bytes: int
    epoch: int | None
    peers: list[PeerRisk]


def risk(engine: EngineStatus) -> Risk:
    """The risk of going on here without anybody's word."""
    state = engine.arbitration
    waits = engine.role == "Primary" and not engine.resuming
    return Risk(
        resource=engine.resource,
        node=engine.node,
        new=not had_data(engine),
        disk=engine.disk,
        waits=waits and state is not None and state.suspended is not None,
        waiting_bytes=engine.requests.in_flight_bytes,
        epoch=None if state is None else state.epoch,
        peers=[_peer(engine, peer) for peer in engine.peers],
    )


def in_vain(engine: EngineStatus) -> BlockpairError | None:
    """Why force is of no use: a peer that is connected says that it is Primary. None where that is not so."""
    if engine.role == "Primary":
        return None
    for peer in engine.peers:
        if peer.connection == "Connected" and peer.role == "Primary":
            return BlockpairError(
                ErrorKind.UNSAFE,
                f"{peer.name} is connected, and Primary of {engine.resource}: no force counts against that",
                f"to move it here: blockpair switchover {engine.resource}",
            )
    return None


def _peer(engine: EngineStatus, peer: PeerStatus) -> PeerRisk:
    connected = peer.connection == "Connected"
    # Two new copies: there is nothing yet that could be lost.
    nothing = not had_data(engine) and peer.disk == "Inconsistent" and connected
    lacking = 0 if nothing else _lacking(engine, peer)
    # Out of sight it may have written anything; in sight, what this copy lacks of it is known.
    return PeerRisk(
        peer=peer.name,
        connection=peer.connection,
        role=peer.role,
        disk=peer.disk,
        seconds_ago=peer.last_contact_seconds,
        lacking_bytes=lacking,
        possible_bytes=lacking if connected else engine.size_bytes,
    )


def _lacking(engine: EngineStatus, peer: PeerStatus) -> int:
    if engine.disk == "Inconsistent" and peer.resync is None:
        # How much of an earlier resync was left, only its source knows for certain.
        return engine.size_bytes
    if peer.resync is not None and peer.resync.direction == "from_peer":
        return peer.resync.total_bytes - peer.resync.done_bytes
    return 0


def lines(found: Risk) -> list[str]:
    """The same for a person, before it is done."""
    name = found.resource
    told = [f"promote --force makes {found.node} go on with {name} without anybody's word:"]
    for peer in found.peers:
        told += [f"  {line}" for line in _peer_lines(found, peer)]
    if found.waits:
        waiting = f" ({format_size(found.waiting_bytes)} at this moment)" if found.waiting_bytes else ""
        told.append(f"  what waits here{waiting} is written and acknowledged")
    if found.new:
        others = " and ".join(peer.peer for peer in found.peers)
        told.append(
            f"  the copy of {found.node} never had data: what is on its device counts from now on, and "
            f"what is on that of {others} is overwritten, if it never had data either"
        )
    elif found.disk == "Inconsistent":
        told.append(
            f"  the copy of {found.node} is Inconsistent: a mixture of old and new blocks, a state that "
            "the data "
            "never had"
        )
    elif found.disk == "Outdated":
        told.append(f"  the copy of {found.node} is Outdated: a state of the past")
    told.append(
        "  it is recorded in the history, and found at the next handshake: what differs then is a split "
        "brain,"
    )
    told.append("  and the changes of one of the two nodes must be given up")
    return told


def _peer_lines(found: Risk, peer: PeerRisk) -> list[str]:
    name = peer.peer
    if peer.connection == "Connected":
        known = [f"{name} is connected: {_state(peer)}"]
        if peer.lacking_bytes:
            known.append(f"{format_size(peer.lacking_bytes)} that {name} has are not here: they may be lost")
        return known
    if peer.seconds_ago is None:
        last = f"{name} was not heard of since this daemon started: nobody here knows what it is"
    else:
        last = f"{name} was last heard of {format_duration(peer.seconds_ago)} ago, as {_state(peer)}"
    told = [last]
    if peer.lacking_bytes:
        told.append(f"{format_size(peer.lacking_bytes)} of its copy were not here even then")
    told.append(
        f"what {name} has acknowledged since may be lost: nobody here knows how much, at most "
        f"{format_size(peer.possible_bytes)}, the whole device"
    )
    told.append(f"if {name} still writes, the two copies part")
    return told


def _state(peer: PeerRisk) -> str:
    return f"{peer.role or 'role unknown'}, {peer.disk or 'disk unknown'}"
