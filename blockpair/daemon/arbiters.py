"""From the cluster's configuration to the arbiter that it names."""

from __future__ import annotations

from blockpair.arbiter.interface import Arbiter
from blockpair.config.cluster import ClusterFile
from blockpair.config.locations import Locations
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust.store import Generation


def build_arbiter(content: ClusterFile, trust: Generation, *, node: str, places: Locations) -> Arbiter:
    """The arbiter of ``content``, for this ``node``. Raises `BlockpairError` where it cannot be made."""
    raise BlockpairError(ErrorKind.CONFIG, f"there is no arbiter of the kind {content.arbiter.kind}")
