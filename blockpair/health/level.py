"""A score over time: smoothed, and whether it is one of a sick node. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from blockpair.health.handover import Policy, smooth


@dataclass(frozen=True)
class Level:
    """``score``: smoothed, from 0 to 100; ``at`` and ``since``: of the last look and the first; ``sick``: it
    fell under the one bound, and has not risen above the other since.
    """

    score: float
    at: float
    since: float
    sick: bool = False


def follow(level: Level | None, policy: Policy, score: float, now: float) -> Level:
    """The level after a look at ``score``. ``now``: seconds on a clock that never goes back. Not sick before
    it was watched for as long as it is smoothed.
    """
    if level is None:
        return Level(score, now, now)
    smoothed = smooth(level.score, score, now - level.at, policy.smoothing)
    sick = smoothed < (policy.recovered_above if level.sick else policy.sick_below)
    return Level(smoothed, now, level.since, sick and now - level.since >= policy.smoothing)
