"""What came of a round of a scenario, in numbers, and the table of many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from tests.lab.acknowledged import Tenure
from tests.lab.scenarios import GoesOn, Scenario


@dataclass(frozen=True)
class Round:
    """One round. Times in seconds.

    ``takeover_s``: from the fault to the first write acknowledged on the other node, where that must go on.
    ``stall_s``: the longest time between two acknowledged writes of a Primary that goes on, from the last
    before the fault to the mending. ``resumed_s``: from the mending to the first acknowledged write, where
    nobody may go on before. ``wrong``: everything that must not have been.
    """

    scenario: str
    number: int
    acknowledged: int = 0
    reads: int = 0
    takeover_s: float | None = None
    stall_s: float | None = None
    resumed_s: float | None = None
    wrong: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Times:
    """When the round's fault came, when it was mended, and when the round was over; who was Primary
    before."""

    fault: float
    mended: float
    over: float
    primary: str


def measure(goes_on: GoesOn, times: Times, heard: Sequence[Tenure]) -> dict[str, float]:
    """The one number that a scenario is about, by its name in `Round`; none where no write tells it."""
    told = sorted((write.acknowledged, tenure.node) for tenure in heard for write in tenure.writes
                  if write.acknowledged is not None)  # fmt: skip
    match goes_on:
        case GoesOn.SECONDARY:
            first = [at for at, node in told if at > times.fault and node != times.primary]
            return {"takeover_s": first[0] - times.fault} if first else {}
        case GoesOn.NOBODY:
            first = [at for at, _ in told if at > times.mended]
            return {"resumed_s": first[0] - times.mended} if first else {}
        case GoesOn.PRIMARY:
            own = [at for at, node in told if node == times.primary]
            gaps = [
                later - earlier
                for earlier, later in pairwise(own)
                if later > times.fault and earlier < times.mended
            ]
            return {"stall_s": max(gaps)} if gaps else {}


def not_as_expected(goes_on: GoesOn, times: Times, heard: Sequence[Tenure], patience_s: float) -> list[str]:
    """Whose writes were acknowledged though nobody could know, or though it was cut off, while the fault
    lasted.

    What was begun by ``fault + patience_s`` may be. Safety is what `acknowledged.judge` decides; this says
    that the fault was none, or that a node did not stop.
    """
    wrong = []
    for tenure in heard:
        same = tenure.node == times.primary
        if (goes_on == GoesOn.PRIMARY and same) or (goes_on == GoesOn.SECONDARY and not same):
            continue
        late = [
            write for write in tenure.acknowledged if times.fault + patience_s < write.begun < times.mended
        ]
        if late:
            after = late[0].begun - times.fault
            wrong.append(
                f"{tenure.node} had {len(late)} writes acknowledged, begun {after:.1f} s after the fault"
            )
    return wrong


_MEASURED = {
    GoesOn.SECONDARY: ("takeover_s", "fault to first write on the other node"),
    GoesOn.PRIMARY: ("stall_s", "longest wait for a write"),
    GoesOn.NOBODY: ("resumed_s", "mending to first write"),
}
_WHO = {
    GoesOn.SECONDARY: "the Secondary takes over",
    GoesOn.PRIMARY: "the Primary",
    GoesOn.NOBODY: "nobody, until mended",
}


def table(scenarios: Sequence[Scenario], rounds: Mapping[str, Sequence[Round]]) -> str:
    """The scenarios that have rounds, as a table of Markdown; its last line has no end."""
    lines = [
        "| Fault | Who goes on | Measured | Median | Longest | Rounds | Acknowledged | Reads | Wrong |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scenario in scenarios:
        done = rounds.get(scenario.name, ())
        if not done:
            continue
        key, what = _MEASURED[scenario.goes_on]
        values = [value for one in done if (value := getattr(one, key)) is not None]
        median, longest = (f"{f(values):.2f} s" if values else "none" for f in (statistics.median, max))
        wrong = sum(bool(one.wrong) for one in done)
        writes, seen = sum(one.acknowledged for one in done), sum(one.reads for one in done)
        lines.append(
            f"| {scenario.title} | {_WHO[scenario.goes_on]} | {what} | {median} | {longest} "
            f"| {len(done)} | {writes} | {seen} | {wrong} |"
        )
    return "\n".join(lines)


class MarkerMissing(ValueError):
    """The document has no place for the table; the message says what is missing."""


def place(document: str, name: str, text: str) -> str:
    """``document`` with ``text`` between its lines ``<!-- scenarios: NAME -->`` and the next ``<!-- end
    -->``."""
    begin, end = f"<!-- scenarios: {name} -->\n", "<!-- end -->"
    head, found, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise MarkerMissing(f"no line '{begin.strip()}' with a line '{end}' below it")
    return f"{head}{begin}{text}\n{end}{tail}"
