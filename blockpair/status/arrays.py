"""What the md arrays below a resource mean for it, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from blockpair.raid.health import Health
from blockpair.raid.model import Array, Part
from blockpair.raid.outlook import degraded, lost, survival, until_whole
from blockpair.raid.standing import Standing, standing_of
from blockpair.status.report import Advice


def advice_on_arrays(
    arrays: Iterable[Array], health: Mapping[str, Health], standings: Mapping[str, Standing]
) -> Iterator[Advice]:
    """Of each array below the resource. ``health``: of the members, by their kernel names; ``standings``: of
    the differences that scrubs found, by the arrays' UUIDs.
    """
    for array in sorted(arrays, key=lambda array: array.name):
        if lost(array):
            yield Advice(
                "critical",
                "array-failed",
                f"the array {array.name} below it has failed: it {survival(array)}",
                f"put its members back if they can be read: blockpair raid status {array.name}; otherwise "
                "make the array, and this node's copy, anew: docs/operations.md, A disk is replaced",
            )
            continue
        if degraded(array):
            yield _degraded(array)
        standing = standing_of(array, standings)
        if standing is not None and not standing.settled:
            yield _differing(array, standing)
        for member in array.having(Part.FAULTY):
            yield Advice(
                "warning",
                "array-member-failed",
                f"{member.device} of the array {array.name} below it has failed",
                f"blockpair raid spare remove {array.name} {member.device}; put a new disk in; then: "
                f"blockpair raid spare add {array.name} DEVICE",
            )
        for member in array.having(Part.ACTIVE):
            found = health.get(member.device)
            if found is not None and found.replace and not member.leaving:
                yield Advice(
                    "warning",
                    "array-member-ill",
                    f"{member.device} of the array {array.name} below it is likely to fail: {found.why}",
                    f"blockpair raid replace {array.name} {member.device} --wait",
                )


def _differing(array: Array, standing: Standing) -> Advice:
    return Advice(
        "warning",
        "array-copies-differ",
        f"copies in the array {array.name} below it may differ: {standing.words}",
        "it is decided by itself once both copies are in step"
        if standing.pending
        else "compare both nodes: blockpair verify; then look at the members: "
        f"blockpair raid status {array.name} --health",
    )


def _degraded(array: Array) -> Advice:
    waits = until_whole(array)
    filling = array.having(Part.REBUILDING)
    by_itself = filling or array.having(Part.SPARE)
    return Advice(
        "warning",
        "array-degraded",
        f"the array {array.name} below it lacks a member: {waits}; {survival(array)}",
        f"it heals by itself: blockpair raid status {array.name}"
        if by_itself
        else f"blockpair raid spare add {array.name} DEVICE, or a member that is back: blockpair raid readd "
        f"{array.name} DEVICE",
    )
