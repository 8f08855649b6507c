"""Both sides of a split brain for a person. Pure."""

from __future__ import annotations

from blockpair.cli.plan_text import time
from blockpair.status.loss import BothLosses, FileList, Loss, SideLoss
from blockpair.units import counted, format_size

_PATHS_SHOWN = 50


def loss_lines(both: BothLosses) -> list[str]:
    """What each node would lose, and what the handshake says of the two."""
    found: list[str] = []
    for side in both.sides:
        found += [*side_lines(both.name, side), ""]
    return [*found, *_decision(both)]


def side_lines(name: str, side: SideLoss) -> list[str]:
    """What one node would lose."""
    if side.loss is None:
        return [f"{name}: what {side.node} would lose is not known: {printable(side.problem or 'no reason')}"]
    found = [f"{name}: {side.node} has what {printable(side.loss.peer)} lacks:", *_amounts(side.loss)]
    # Times of marks that are there: of a copy without any they say nothing.
    if side.loss.whole or side.loss.changed_bytes or side.loss.possible_bytes:
        first, last = time(side.diverged_at_s), time(side.changed_at_s)
        found += [f"  first     on its own since {first}"] if first else []
        found += [f"  last      change noted at {last}"] if last else []
    return found + ([] if side.files is None else _files(side.files))


def _amounts(loss: Loss) -> list[str]:
    if loss.whole:
        return ["  what changed is not known: it may be everything"]
    least = "" if loss.complete else "at least "
    found = [
        f"  changed   {least}{counted(loss.changed_blocks, 'block')}, {format_size(loss.changed_bytes)}, in "
        f"{counted(loss.extents, 'place')}"
    ]
    if loss.possible_bytes:
        found.append(
            f"  possibly  {format_size(loss.possible_bytes)} more, in places written to lately: its "
            "blocks are compared at the resync"
        )
    return found


def _files(files: FileList) -> list[str]:
    if files.problem is not None:
        return [f"  files     not known: {printable(files.problem)}"]
    cut = ", as far as they were looked up" if files.unseen_bytes else ", and more than are named"
    more = "" if files.complete else cut
    kind = printable(files.file_system or "")
    found = [f"  files     {len(files.paths)} that may have changed ({kind}){more}"]
    found += [f"    {printable(path)}" for path in files.paths[:_PATHS_SHOWN]]
    if len(files.paths) > _PATHS_SHOWN:
        found.append(f"    … {len(files.paths) - _PATHS_SHOWN} more with --json")
    if files.other_blocks:
        found.append(
            f"    and {counted(files.other_blocks, 'block')} of the file system that belong to no file"
        )
    if files.unseen_bytes:
        found.append(
            f"    not looked up: what else changed, {format_size(files.unseen_bytes)}; any file may be there"
        )
    return found


def _decision(both: BothLosses) -> list[str]:
    decision = None if both.plan is None else both.plan.decision
    if decision is None:
        return ["whether it is a split brain is not known: the peer did not answer"]
    if decision.direction != "split-brain":
        return [
            f"this is no split brain now (rule {decision.rule or 'none'}): nobody needs to give anything up; "
            f"blockpair plan {both.name} says more"
        ]
    if decision.victim is not None:
        return [
            f"split brain: a connect gives up the changes of {decision.victim} by the policy {decision.by}; "
            f"on both nodes: blockpair connect {both.name}"
        ]
    return [
        f"split brain: {decision.reason}",
        f"to give one side up (saved in a bundle there first): blockpair resolve {both.name} --discard NODE",
    ]


def printable(text: str) -> str:
    """Names come from a file system or a peer: nothing in them shall move a terminal's cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)
