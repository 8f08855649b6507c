"""What a node tells of its health: to its administrator, and to its peers."""

from __future__ import annotations

from dataclasses import replace

from msgspec import Struct

from blockpair.health.score import Health, Part


class NodeHealth(Struct, frozen=True):
    """``score``: of the last look; ``smoothed``: what is decided by; ``age_seconds``: of the look; ``sick``:
    whether a Primary would rather hand over; ``hand_over``: whether it does so by itself; ``unseen``: what
    cannot be measured there.
    """

    node: str
    score: float
    smoothed: float
    age_seconds: float
    sick: bool
    hand_over: bool
    parts: list[Part]
    reasons: list[str]
    unseen: list[str]


class PeerHealth(Struct, frozen=True):
    """What a peer tells; ``problem``: why it does not."""

    node: str
    health: NodeHealth | None = None
    problem: str | None = None


class HealthReport(Struct, frozen=True):
    """This node, and the peers of its resources."""

    own: NodeHealth
    peers: list[PeerHealth]


def parts_of(health: Health) -> list[Part]:
    """For a report, rounded as a person would."""
    return [replace(part, score=round(part.score, 1), cap=round(part.cap, 1)) for part in health.parts]
