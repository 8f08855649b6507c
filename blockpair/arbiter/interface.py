"""What every arbiter is to a node: a durable register a resource, read and swapped.

An arbiter keeps no timers and no leases: it answers with what it holds, and changes it only when what it
holds is what the asker has read (PacificA's configuration manager).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

ArbiterKind = Literal["witness", "etcd", "fence"]

MAX_EPOCH = 2**63 - 1


class ArbiterUnreachable(Exception):
    """No answer, or none that can be believed: after a swap, whether it was done is not known."""


class ArbiterRefused(Exception):
    """It answered no, for a reason that a person must mend; its text names the remedy too."""


@dataclass(frozen=True)
class Key:
    """Whose configuration. ``name`` is the resource's, for people alone: ``resource_id`` tells them apart."""

    cluster: str
    resource_id: str
    name: str


@dataclass(frozen=True)
class Configuration:
    """Who may write in an epoch, and which nodes have every write that was acknowledged."""

    epoch: int
    primary: str
    in_sync: frozenset[str]

    def document(self) -> dict[str, Any]:
        """As JSON, the same bytes for the same configuration."""
        return {"epoch": self.epoch, "primary": self.primary, "in_sync": sorted(self.in_sync)}


def configuration(document: object) -> Configuration:
    """The configuration that ``document``, read from outside, describes. Raises `ValueError`."""
    if not isinstance(document, dict) or set(document) != {"epoch", "primary", "in_sync"}:
        raise ValueError("a configuration has epoch, primary and in_sync, and nothing else")
    epoch, primary, in_sync = document["epoch"], document["primary"], document["in_sync"]
    if type(epoch) is not int or not 1 <= epoch <= MAX_EPOCH:
        raise ValueError(f"an epoch is a number from 1 to {MAX_EPOCH}, not {epoch!r:.40}")
    if not isinstance(primary, str) or not primary:
        raise ValueError("primary is a node's name")
    if (
        not isinstance(in_sync, list)
        or not 1 <= len(in_sync) <= 8
        or not all(isinstance(name, str) and name for name in in_sync)
        or in_sync != sorted(set(in_sync))
    ):
        raise ValueError("in_sync is a sorted list of nodes' names, each once")
    return Configuration(epoch, primary, frozenset(in_sync))


class Arbiter(Protocol):
    """One way to reach an arbiter. A call ends within the time-out that it was made with."""

    @property
    def kind(self) -> ArbiterKind: ...

    async def read(self, key: Key) -> Configuration | None:
        """What it holds; None: it never heard of the resource, or has lost what it knew.

        Raises `ArbiterUnreachable`, `ArbiterRefused`.
        """

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """Make it ``new``, durably, if it is ``expected``; whether it was.

        Raises `ArbiterUnreachable` (nobody knows whether it was done: read again), `ArbiterRefused`.
        """

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
