"""How well the node is, as it measures itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blockpair.health.report import NodeHealth
from blockpair.metrics.family import Sample, gauge

SCORE = gauge("blockpair_health_score", "The node's score from 0 to 100, of the last look")
SMOOTHED = gauge("blockpair_health_smoothed_score", "The score that is decided by")
SICK = gauge("blockpair_health_sick", "1 while the node, being Primary, would rather hand over")
HANDS_OVER = gauge("blockpair_health_hand_over", "1: it would do so by itself")
AGE = gauge("blockpair_health_age_seconds", "Time since the last look")
UNSEEN = gauge("blockpair_health_unseen_parts", "Kinds of parts that cannot be measured on this machine")
PART_SCORE = gauge("blockpair_health_part_score", "A part's score from 0 to 100", "part")
PART_VALUE = gauge(
    "blockpair_health_part_value", "What was measured of it; `blockpair health` says in which unit", "part"
)


def health(known: NodeHealth | None) -> Iterator[Sample]:
    """Nothing before the first look."""
    if known is None:
        return
    yield SCORE.sample(known.score)
    yield SMOOTHED.sample(known.smoothed)
    yield SICK.sample(known.sick)
    yield HANDS_OVER.sample(known.hand_over)
    yield AGE.sample(known.age_seconds)
    yield UNSEEN.sample(len(known.unseen))
    for part in known.parts:
        yield PART_SCORE.sample(part.score, part.name)
        yield PART_VALUE.sample(part.value, part.name)
