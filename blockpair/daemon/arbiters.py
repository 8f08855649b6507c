"""From the cluster's configuration to the arbiter that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockpair.arbiter.interface import Arbiter
from blockpair.config.cluster import ClusterFile
from blockpair.config.fence import node_fences
from blockpair.config.locations import Locations
from blockpair.config.names import parse_address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust.store import TrustStore

if TYPE_CHECKING:
    from blockpair.arbiter.fence import Pair


def build_arbiter(content: ClusterFile, *, node: str, places: Locations, pair: Pair) -> Arbiter:
    """The arbiter of ``content``, for this ``node``; ``pair``: what is known of its resources. In the event
    loop. Raises `BlockpairError` where it cannot be made.
    """
    table = content.arbiter
    match table.kind:
        case "witness":
            from blockpair.arbiter.witness.client import WitnessArbiter
            from blockpair.arbiter.witness.trust import NodeTrust

            own = NodeTrust(TrustStore(places.trust), content.cluster.id)
            return WitnessArbiter(parse_address(table.address), own)
        case "etcd":
            from blockpair.arbiter.etcd import Credentials, EtcdArbiter

            files = Credentials(Path(table.ca), Path(table.cert), Path(table.key))
            return EtcdArbiter(table.endpoints, files, prefix=table.prefix)
        case "fence":
            from blockpair.arbiter.fence import FenceArbiter, Fencer

            fences = node_fences(content.fence, content.node, places.cluster_file)
            arbiter = FenceArbiter(node, Fencer(fences), places.fence_records, pair)
            arbiter.watch()
            return arbiter
        case _:
            raise BlockpairError(ErrorKind.CONFIG, f"there is no arbiter of the kind {table.kind}")
