"""What a connect would do: the engine's answer, as it crosses from Rust and as `blockpair plan --json` prints
it.

Sizes in bytes, ids hexadecimal, times in seconds since 1970.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from blockpair.errors import ExitCode

Direction = Literal["established", "source", "target", "wait", "split-brain", "refuse"]


class Amount(Struct, frozen=True):
    """So much of the device; ``exact`` false: at most."""

    blocks: int
    bytes: int
    exact: bool


class Generations(Struct, frozen=True):
    """Ids, all zero for none: of the data as they are, of those that ``marked`` counts from, and of those
    before.
    """

    current: str
    bitmap: str
    history: list[str]


class Side(Struct, frozen=True):
    """One node's inputs of the handshake. ``marked``: blocks that may differ from the peer's by its marks."""

    node: str
    resource_id: str | None
    size_bytes: int
    block_size_bytes: int
    protocol: str
    policy: str
    priority: int
    role: str
    resuming: bool
    disk: str
    generation: Generations
    dirty_blocks: int
    suspect_extents: int
    full_sync: bool
    crashed_primary: bool
    last_primary: bool
    diverged_at_s: int | None
    changed_at_s: int | None
    marked: Amount


class Decision(Struct, frozen=True):
    """What the handshake would decide. ``rule``: null when it is refused before any rule, for ``goodbye``;
    ``reason``: why it is refused, or why a split brain has this victim or none; ``victim``: whose changes
    would go, decided ``by`` a policy; ``compared``: what a resync would compare, and at most send.
    """

    rule: str | None
    direction: Direction
    goodbye: str | None
    reason: str
    source: str | None
    target: str | None
    victim: str | None
    by: str | None
    compared: Amount


class Plan(Struct, frozen=True):
    """``problem``: why the peer did not answer; then ``other`` and ``decision`` are null."""

    resource: str
    node: str
    peer: str
    problem: str | None
    own: Side
    other: Side | None
    decision: Decision | None


def peer_is_primary(plan: Plan) -> bool:
    """Whether the peer answered that it is Primary of the same resource, and has a disk: without one it can
    write nothing but through its peer.
    """
    own, other = plan.own, plan.other
    if other is None or other.role != "Primary" or other.disk == "Diskless":
        return False
    # A node that never had data does not know the resource's id.
    return None in (own.resource_id, other.resource_id) or own.resource_id == other.resource_id


def exit_code(plan: Plan) -> ExitCode:
    """4 for what a connect would not bring together, or only by giving up changes; 1 for an unknown peer."""
    if plan.decision is None:
        return ExitCode.FAILED
    return ExitCode.DEGRADED if plan.decision.direction in ("split-brain", "refuse") else ExitCode.FINE
