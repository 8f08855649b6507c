"""Faults of a pair that carries a service: what a client saw of each, in numbers, and the table of many.

The application writes what the client sends, one number after the other, and flushes before it answers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any

from tests.lab.scenarios import GoesOn


class Fault(StrEnum):
    """What is done to the node that serves; its value is the scenario's name."""

    KERNEL = "kernel"
    POWER = "power"
    KILL = "kill"
    FREEZE = "freeze"
    HANG = "hang"
    REPLICATION = "replication"
    CLIENTS = "clients"
    UNIT_ONCE = "unit-once"
    UNIT = "unit"
    DISK = "disk"
    SWITCHOVER = "switchover"


@dataclass(frozen=True)
class ServiceScenario:
    """One line of the table. ``lasts_s``: seconds that the fault lasts at least; ``anew``: each round has a
    pair of its own, for what was remembered, or is broken, after one.
    """

    fault: Fault
    title: str
    goes_on: GoesOn
    lasts_s: float = 0.0
    anew: bool = False
    deadline_s: float = 60.0


P, S = GoesOn.PRIMARY, GoesOn.SECONDARY
SERVICE_SCENARIOS = (
    ServiceScenario(Fault.KERNEL, "power cut of a kernel of its own, under a mounted ext4", S),
    ServiceScenario(Fault.POWER, "power cut: all processes killed, both cables cut", S),
    ServiceScenario(Fault.KILL, "daemon killed, with the engine in it", S),
    ServiceScenario(Fault.FREEZE, "daemon frozen for 5 s, with the engine in it", S, 5),
    ServiceScenario(Fault.HANG, "all processes frozen, while the kernel lives", S, 5),
    ServiceScenario(Fault.REPLICATION, "replication link cut for 5 s", P, 5),
    ServiceScenario(Fault.CLIENTS, "cable to the clients and the witness cut", S, anew=True),
    ServiceScenario(Fault.UNIT_ONCE, "the application dies", P, 0.2, anew=True),
    ServiceScenario(
        Fault.UNIT, "the application dies, and starts there no more", S, anew=True, deadline_s=180
    ),
    ServiceScenario(Fault.DISK, "the disk fails", P, 3, anew=True),
    ServiceScenario(Fault.SWITCHOVER, "planned switchover", S),
)
SERVICE_BY_NAME = {str(scenario.fault): scenario for scenario in SERVICE_SCENARIOS}


@dataclass(frozen=True)
class ServiceRound:
    """``waited_s``: the longest time without an acknowledged write of the client's, from the fault to the
    mending; ``acknowledged``: its writes in the round; ``lost``: those of them that a disk lacks in the end;
    ``two_holders``: whether two nodes were seen with the address; ``two_writers``, ``late``: as `Late` has
    them; ``wrong``: all else that must not have been.
    """

    scenario: str
    number: int
    waited_s: float | None = None
    acknowledged: int = 0
    lost: int = 0
    two_holders: bool = False
    two_writers: int = 0
    late: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether anything was not as promised."""
        return bool(self.lost or self.two_holders or self.two_writers or self.wrong)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Written:
    """A write that a node's disk acknowledged to the application; times on one clock of all nodes. ``held``:
    the number that its block had before, where that was looked at.
    """

    node: str
    number: int
    began: float
    ended: float
    held: int | None = None


def parse_writes(node: str, text: str) -> list[Written]:
    """What an application told; the last line may be cut by its end."""
    lines = [line.split() for line in text.splitlines()[: text.count("\n")]]
    return [
        Written(node, int(number), float(began), float(ended), None if held == "-" else int(held))
        for number, began, ended, held in lines
    ]


@dataclass(frozen=True)
class Late:
    """Of the writes that the old Primary's disk acknowledged after the new one's application had begun one.

    ``second_writer``: those that must not have been: begun after it too, or under way and not on the new
    Primary's disk when that took over. ``confirmed``: those that were under way, and on it: the peer had
    confirmed them before it took over, and the old Primary heard of that only afterwards.
    """

    second_writer: int
    confirmed: int


def late_writes(primary: str, writes: Iterable[Written]) -> Late:
    """Judge what both nodes' applications told of a round that began with this Primary."""
    told = list(writes)
    first = min((write for write in told if write.node != primary), key=lambda one: one.began, default=None)
    if first is None:
        return Late(0, 0)
    late = [write for write in told if write.node == primary and write.ended > first.began]
    # The client asks for a number until that is answered: those before it were answered, and are looked for
    # on the disks; its own is on the survivor's disk before the survivor writes it, or was not confirmed.
    confirmed = [
        write
        for write in late
        if write.began <= first.began
        and (write.number < first.number or write.number == first.number == first.held)
    ]
    return Late(len(late) - len(confirmed), len(confirmed))


def not_as_expected(goes_on: GoesOn, primary: str, other: str, writes: Iterable[Written]) -> list[str]:
    """Whose writes should not have been, or should not have begun in that order."""
    order = [node for node, _ in groupby(sorted(writes, key=lambda write: write.began), lambda one: one.node)]
    expected = [primary, other] if goes_on is GoesOn.SECONDARY else [primary]
    return [] if order == expected else [f"wrote in turn: {order}; expected: {expected}"]


def service_table(
    scenarios: Sequence[ServiceScenario],
    rounds: Mapping[str, Sequence[ServiceRound]],
    others: Mapping[str, Sequence[ServiceRound]],
) -> str:
    """The scenarios that have rounds, as a table of Markdown, beside ``others``, the same faults under
    keepalived; its last line has no end.
    """
    lines = [
        "| Fault | Who goes on | Client's wait: median | Longest | Rounds | Acknowledged | Lost "
        "| Two holders | Two writers | Wrong | keepalived: median | Longest | Rounds | Two holders |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scenario in scenarios:
        done, beside = rounds.get(scenario.fault, ()), others.get(scenario.fault, ())
        if not done:
            continue
        cells = [
            scenario.title,
            "the other node" if scenario.goes_on is GoesOn.SECONDARY else "the same node",
            *_waited(done),
            str(len(done)),
            str(sum(one.acknowledged for one in done)),
            str(sum(one.lost for one in done)),
            str(sum(one.two_holders for one in done)),
            str(sum(one.two_writers for one in done)),
            str(sum(bool(one.wrong) for one in done)),
            *_waited(beside),
            str(len(beside)),
            str(sum(one.two_holders for one in beside)) if beside else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _waited(rounds: Sequence[ServiceRound]) -> tuple[str, str]:
    values = [one.waited_s for one in rounds if one.waited_s is not None]
    if not values:
        return "-", "-"
    return f"{statistics.median(values):.2f} s", f"{max(values):.2f} s"
