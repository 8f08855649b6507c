"""Whether a sick Primary hands over. Pure: a state, a look at both nodes and the time in; a decision out.

Everything here is against flapping. What moves with the service (its load) makes whoever carries it look
sick, so a healthier peer is no proof that it would stay healthier: each switchover makes the next one
harder to get.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Policy:
    """Scores are from 0 to 100, times are seconds."""

    sick_below: float = 60.0
    recovered_above: float = 66.0
    """Once sick, it is until it is above this."""
    peer_above: float = 75.0
    margin: float = 20.0
    """By how much the peer must be healthier."""
    smoothing: float = 30.0
    """The time in which a change has come through by two thirds."""
    patience: float = 180.0
    """For how long it must have been sick without a break: longer than a backup's start or a burst of
    clients.
    """
    disk_patience: float = 15.0
    """For how long it must have been without its own disk, served by the peer's: that is no matter of scores,
    and does not get better by waiting.
    """
    dwell: float = 600.0
    """Since the role last changed; doubled by each switchover that is remembered."""
    memory: float = 24 * 3600.0
    """For how long a switchover is remembered."""
    most: int = 3
    """Switchovers that may be remembered; with so many, the service stays put and a person is told."""
    stale: float = 10.0
    """A look at the peer that is older says nothing."""


@dataclass(frozen=True)
class Look:
    """Both nodes at one moment. ``peer``: its score as it tells; None: it does not. ``peer_age``: of that.
    ``diskless``: this node's own disk has failed.
    """

    own: float
    peer: float | None
    peer_in_sync: bool
    primary: bool
    peer_age: float = 0.0
    diskless: bool = False


@dataclass(frozen=True)
class Watch:
    """What is remembered from look to look. ``switchovers``: when they were, those by hand too."""

    own: float | None = None
    peer: float | None = None
    at: float | None = None
    sick_since: float | None = None
    diskless_since: float | None = None
    role_since: float | None = None
    primary: bool | None = None
    switchovers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Whether to hand over, why or why not, and whether a person is to be told because nothing can be
    done.
    """

    hand_over: bool
    why: str
    alert: bool = False


def look(watch: Watch, policy: Policy, seen: Look, now: float) -> tuple[Watch, Decision]:
    """One look. ``now``: seconds on a clock that never goes back. After a decision to hand over the caller
    says how it ended with `switched`.
    """
    passed = 0.0 if watch.at is None else max(0.0, now - watch.at)
    fresh = seen.peer is not None and seen.peer_age <= policy.stale
    own = smooth(watch.own, seen.own, passed, policy.smoothing)
    peer = (
        smooth(watch.peer, seen.peer, passed, policy.smoothing) if fresh and seen.peer is not None else None
    )
    changed = watch.primary is not None and watch.primary != seen.primary
    since = watch.sick_since
    if own >= policy.recovered_above:
        since = None
    elif since is None and own < policy.sick_below:
        since = now
    without = None
    if seen.diskless and seen.primary:
        without = now if watch.diskless_since is None else watch.diskless_since
    watch = replace(
        watch,
        own=own,
        peer=peer,
        at=now,
        sick_since=since,
        diskless_since=without,
        role_since=now if changed or watch.role_since is None else watch.role_since,
        primary=seen.primary,
        switchovers=tuple(at for at in watch.switchovers if now - at < policy.memory),
    )
    return watch, _decide(watch, policy, seen, now)


def switched(watch: Watch, now: float) -> Watch:
    """A switchover was tried, whichever way it ended."""
    return replace(watch, switchovers=(*watch.switchovers, now), role_since=now, sick_since=None)


def dwell(watch: Watch, policy: Policy) -> float:
    """Seconds that the role must have lasted, after the switchovers that are remembered."""
    return policy.dwell * float(2 ** len(watch.switchovers))


def _decide(watch: Watch, policy: Policy, seen: Look, now: float) -> Decision:  # noqa: PLR0911 - a reason, a line
    if not seen.primary:
        return Decision(False, "this node is not Primary")
    if watch.diskless_since is not None:
        return _without_disk(watch, policy, seen, now - watch.diskless_since, now)
    assert watch.own is not None
    if watch.sick_since is None:
        return Decision(False, f"it is well ({watch.own:.0f})")
    if now - watch.sick_since < policy.patience:
        return Decision(False, f"it is sick ({watch.own:.0f}), for {now - watch.sick_since:.0f} s so far")
    if not seen.peer_in_sync:
        return Decision(False, "the peer is not in sync", alert=True)
    if watch.peer is None:
        return Decision(False, "the peer's health is not known", alert=True)
    if watch.peer < policy.peer_above or watch.peer < watch.own + policy.margin:
        return Decision(False, f"the peer ({watch.peer:.0f}) is not healthier by enough", alert=True)
    if len(watch.switchovers) >= policy.most:
        return Decision(
            False,
            f"{len(watch.switchovers)} switchovers of late did not help: it stays where it is",
            alert=True,
        )
    lasted = now - (watch.role_since if watch.role_since is not None else now)
    if lasted < dwell(watch, policy):
        return Decision(False, f"the role has lasted {lasted:.0f} s of {dwell(watch, policy):.0f}")
    return Decision(True, f"it is sick ({watch.own:.0f}), and the peer is not ({watch.peer:.0f})")


def _without_disk(watch: Watch, policy: Policy, seen: Look, lasted: float, now: float) -> Decision:
    """Neither scores nor earlier switchovers count: the peer's copy is the only good one, and a service does
    not come back to where there is none.
    """
    if lasted < policy.disk_patience:
        return Decision(False, f"its disk has failed, {lasted:.0f} s ago")
    if not seen.peer_in_sync:
        return Decision(False, "its disk has failed, and the peer is not in sync", alert=True)
    tried = max(watch.switchovers, default=float("-inf"))
    if tried >= now - lasted and now - tried < policy.patience:
        return Decision(False, f"its disk has failed, and the last try was {now - tried:.0f} s ago")
    return Decision(True, "its disk has failed, and the peer's copy is the only good one")


def smooth(old: float | None, new: float, passed: float, constant: float) -> float:
    """What ``old`` becomes after ``passed`` seconds at ``new``; in ``constant`` it comes two thirds of the
    way.
    """
    if old is None:
        return new
    return old + (new - old) * (1 - math.exp(-max(0.0, passed) / constant))
