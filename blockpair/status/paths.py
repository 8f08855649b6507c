"""The ways to a peer, as the side that was dialled knows them. Pure.

The node whose name sorts first dials, a path for each address that it has of the other. The other one's
engine knows the dialling node's addresses, and names a path by them; it may have more paths than that. What
it was dialled at are its own addresses, which the cluster's configuration has in the same order.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from blockpair.config.names import Address
from blockpair.status.engine import EngineStatus, PathStatus, PeerStatus


@dataclass(frozen=True)
class OwnPlace:
    """Where this node is for its peers: its ``addresses`` by the cluster's configuration, and what it listens
    on by ``file``.
    """

    addresses: tuple[Address, ...]
    listen: Address
    file: Path


def named(engine: EngineStatus, own: OwnPlace, known: Mapping[str, int]) -> EngineStatus:
    """``engine`` with names for paths that have none, and the cause where this node does not listen to one;
    ``known``: how many addresses of each peer the engine has.
    """
    peers = [
        _peer(peer, own, known.get(peer.name, 0))
        if peer.name < engine.node and peer.connection == "Connected"
        else peer
        for peer in engine.peers
    ]
    return replace(engine, peers=peers)


def _peer(peer: PeerStatus, own: OwnPlace, known: int) -> PeerStatus:
    paths = [
        _path(path, own, at, named=index < known)
        for index, (path, at) in enumerate(zip(peer.paths, own.addresses, strict=False))
    ]
    return replace(peer, paths=paths + peer.paths[len(paths) :])


def _path(path: PathStatus, own: OwnPlace, at: Address, *, named: bool) -> PathStatus:
    if not named:
        path = replace(path, address=str(at), own=True)
    if path.state == "down" and not hears(own.listen.host, at.host):
        why = f'this node listens on another address: listen = "{own.listen}" in [node] of {own.file}'
        return replace(path, why=why, heard=False)
    return path


def hears(listen: str, host: str) -> bool:
    """Whether who listens on ``listen`` hears what comes to ``host``; names count as heard."""
    try:
        listening, wanted = ipaddress.ip_address(listen), ipaddress.ip_address(host)
    except ValueError:
        return True
    if listening.is_unspecified:
        # That of IPv6 takes both.
        return listening.version >= wanted.version
    return listening == wanted
