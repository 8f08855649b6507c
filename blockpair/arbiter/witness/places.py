"""Where a witness keeps what it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SYSTEM_STATE = Path("/var/lib/blockpair-witness")
SYSTEM_RUN = Path("/run/blockpair-witness")


@dataclass(frozen=True)
class Places:
    """The directories of one witness."""

    state: Path
    run: Path

    @property
    def database(self) -> Path:
        """The registers."""
        return self.state / "registers.sqlite"

    @property
    def clusters(self) -> Path:
        """A directory a cluster, with its trust."""
        return self.state / "clusters"

    @property
    def lock_file(self) -> Path:
        return self.run / "witness.lock"

    @property
    def rpc_socket(self) -> Path:
        return self.run / "witness.sock"


def places(directory: str | None = None) -> Places:
    """Below ``directory`` or else BLOCKPAIR_DIR, beside a node's; without either, those of an installed
    system.
    """
    base = directory or os.environ.get("BLOCKPAIR_DIR", "")
    if base:
        root = Path(base).absolute()
        return Places(root / "state/witness", root / "run")
    return Places(SYSTEM_STATE, SYSTEM_RUN)
