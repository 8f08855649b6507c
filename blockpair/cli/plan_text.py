"""A plan for a person. Pure but for rich's types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from blockpair.status.plan import Amount, Decision, Plan, Side
from blockpair.units import counted, format_size, utc

if TYPE_CHECKING:
    from rich.table import Table


def screen(plan: Plan) -> list[Table | str]:
    """The inputs of both sides, then the decision, a sentence a line."""
    return [table(plan), "", *outcome(plan)]


def table(plan: Plan) -> Table:
    """A column a node, a row an input of the handshake."""
    from rich.table import Table

    sides = [side for side in (plan.own, plan.other) if side is not None]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in (plan.resource, *(side.node for side in sides)):
        shown.add_column(title, overflow="fold")
    columns = [_inputs(side) for side in sides]
    for name in columns[0]:
        values = [column[name] for column in columns]
        if any(values):
            shown.add_row(name, *values)
    return shown


def _inputs(side: Side) -> dict[str, str]:
    flags = {
        "resuming": side.resuming,
        "last Primary": side.last_primary,
        "crashed as Primary": side.crashed_primary,
    }
    return {
        "role": side.role,
        "disk": side.disk,
        "flags": ", ".join(name for name, on in flags.items() if on),
        "generation": side.generation.current,
        "marks since": side.generation.bitmap,
        "history": "\n".join(side.generation.history),
        "marked": _marked(side),
        "went on alone": time(side.diverged_at_s),
        "last change": time(side.changed_at_s),
        "policy": side.policy,
        "priority": str(side.priority),
        "protocol": side.protocol,
        "size": f"{side.size_bytes} bytes",
    }


def time(seconds: int | None) -> str:
    """A time label in UTC, empty for none."""
    if seconds is None:
        return ""
    try:
        return utc(datetime.fromtimestamp(seconds, UTC), "seconds")
    except (OverflowError, ValueError, OSError):
        # A peer's clock, or what it says of it, can be anything.
        return f"{seconds} s after 1970"


def amount(found: Amount) -> str:
    """Blocks and bytes, as a person reads them."""
    most = "" if found.exact else "at most "
    return f"{most}{counted(found.blocks, 'block')}, {format_size(found.bytes)}"


def _marked(side: Side) -> str:
    if side.full_sync:
        return f"everything ({amount(side.marked)})"
    suspects = f", {side.suspect_extents} suspect extents included" if side.suspect_extents else ""
    return amount(side.marked) + suspects


def outcome(plan: Plan) -> list[str]:
    """What would happen, in words."""
    if plan.decision is None:
        return [f"what a connect would do is not known: {plan.peer} did not answer"]
    decision = plan.decision
    found = [f"rule      {decision.rule or 'none: refused before any'}"]
    found += [
        f"          {line}" if at else f"connect   {line}" for at, line in enumerate(_words(plan, decision))
    ]
    return [*found, "nothing was done"]


def _words(plan: Plan, decision: Decision) -> list[str]:
    match decision.direction:
        case "established":
            return ["the copies are equal: replication goes on, nothing is sent"]
        case "source" | "target":
            return [
                f"{decision.target} is synced from {decision.source}",
                f"{amount(decision.compared)} are compared by checksum; those that differ are overwritten on "
                f"{decision.target}",
            ]
        case "wait":
            return [
                "neither copy ever had data: nothing is synced until a person names the good one",
                f"blockpair sync {plan.resource} --from NODE",
            ]
        case "split-brain":
            return _split(plan, decision)
        case _:
            return [f"refused: {decision.reason}"]


def _demote(resource: str, sides: dict[str, Side]) -> str:
    in_use = [name for name, side in sides.items() if side.role == "Primary" or side.resuming]
    if not in_use:
        return ""
    if len(in_use) == len(sides):
        return f"; both are Primary, so first, on NODE: blockpair demote {resource}"
    return f"; first, if that is {in_use[0]}, there: blockpair demote {resource}"


def _split(plan: Plan, decision: Decision) -> list[str]:
    sides = {side.node: side for side in (plan.own, plan.other) if side is not None}
    if decision.victim is None:
        losses = [f"{side.node} would lose {_marked(side)}" for side in sides.values()]
        return [
            f"split brain: {decision.reason}",
            *losses,
            f"what that is: blockpair resolve {plan.resource}",
            f"to decide: blockpair resolve {plan.resource} --discard NODE{_demote(plan.resource, sides)}",
        ]
    return [
        f"split brain: {decision.victim} gives up its changes by the policy {decision.by}: {decision.reason}",
        f"{decision.victim} loses {_marked(sides[decision.victim])}: saved in a bundle there first",
        f"then {amount(decision.compared)} are compared, and what differs comes from {decision.source}",
    ]
