"""What is done to a pair of nodes and their witness, and who must go on.

Who is ``primary`` and ``secondary`` is who it was when the fault came.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Machine(StrEnum):
    """One of the three."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    WITNESS = "witness"


P, S, W = Machine.PRIMARY, Machine.SECONDARY, Machine.WITNESS


class GoesOn(StrEnum):
    """Whose writes are acknowledged while the fault lasts; ``nobody``: any after it has been mended."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    NOBODY = "nobody"


@dataclass(frozen=True)
class PowerCut:
    """Memory is lost at once, disks stay; mended by a boot."""

    machine: Machine


@dataclass(frozen=True)
class Freeze:
    """The machine stands still, as a paused virtual one; mended by a thaw."""

    machine: Machine


@dataclass(frozen=True)
class Cut:
    """Nothing of what ``sender`` sends reaches ``receiver``; what that one sends does."""

    sender: Machine
    receiver: Machine


Fault = PowerCut | Freeze | Cut


@dataclass(frozen=True)
class Scenario:
    """One line of the table. The faults come at once and last at least ``lasts_s`` seconds."""

    name: str
    title: str
    faults: tuple[Fault, ...]
    goes_on: GoesOn
    lasts_s: float = 0.0


def _apart(one: Machine, other: Machine) -> tuple[Cut, Cut]:
    return Cut(one, other), Cut(other, one)


_LINK = _apart(P, S)
_CUT = "one way: what the {} sends {} is lost".format

SCENARIOS = (
    Scenario("primary-power", "power cut of the Primary", (PowerCut(P),), GoesOn.SECONDARY),
    Scenario("secondary-power", "power cut of the Secondary", (PowerCut(S),), GoesOn.PRIMARY),
    Scenario("link", "link between the nodes cut", _LINK, GoesOn.PRIMARY, 5),
    Scenario("witness", "witness cut off from both", (*_apart(P, W), *_apart(S, W)), GoesOn.PRIMARY, 5),
    Scenario(
        "link-and-witness",
        "link cut, and the witness cut off from both",
        (*_LINK, *_apart(P, W), *_apart(S, W)),
        GoesOn.NOBODY,
        6,
    ),
    Scenario("primary-isolated", "cables of the Primary cut", (*_LINK, *_apart(P, W)), GoesOn.SECONDARY, 6),
    Scenario("one-way-to-secondary", _CUT("Primary", "the Secondary"), (Cut(P, S),), GoesOn.PRIMARY, 5),
    Scenario("one-way-to-primary", _CUT("Secondary", "the Primary"), (Cut(S, P),), GoesOn.PRIMARY, 5),
    Scenario("primary-mute", _CUT("Primary", "to both"), (Cut(P, S), Cut(P, W)), GoesOn.SECONDARY, 6),
    Scenario("primary-freeze", "Primary frozen for 10 s, then thawed", (Freeze(P),), GoesOn.SECONDARY, 10),
    Scenario("secondary-freeze", "Secondary frozen for 10 s, then thawed", (Freeze(S),), GoesOn.PRIMARY, 10),
    Scenario("witness-freeze", "witness frozen for 10 s, then thawed", (Freeze(W),), GoesOn.PRIMARY, 10),
    Scenario("both-power", "power cut of both, cold start", (PowerCut(P), PowerCut(S)), GoesOn.NOBODY, 1),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
