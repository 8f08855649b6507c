"""Which array is to be scrubbed now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blockpair.raid.model import Array
from blockpair.raid.outlook import healthy
from blockpair.raid.rules import Rules

# The states in which an array is read and written: one that waits for its first write is left alone.
_IN_USE = ("clean", "active", "active-idle", "write-pending")
_WITHOUT_COPIES = ("raid0", "linear")


def due(
    arrays: Iterable[Array], last: Mapping[str, float], rules: Rules, now: float, hour: int
) -> Array | None:
    """The array whose scrub is longest overdue; None where there is none, or it is not the time.

    Never while any array is synced, for arrays may share disks, and one scrub at a time is enough; never one
    that lacks a member or has one that failed. ``last``: when each was scrubbed, by UUID, in the seconds of
    ``now``; one that is not in it is not known for long enough.
    """
    known = list(arrays)
    if rules.scrub_seconds is None or not _within(hour, rules.scrub_hours):
        return None
    if any(array.sync is not None for array in known):
        return None
    late = [
        (last[array.uuid], array.uuid)
        for array in known
        if array.uuid in last
        and now - last[array.uuid] >= rules.scrub_seconds
        and array.state in _IN_USE
        and array.geometry.level not in _WITHOUT_COPIES
        and healthy(array)
        and not array.unequal
    ]
    if not late:
        return None
    _, uuid = min(late)
    return next(array for array in known if array.uuid == uuid)


def scrubbed(before: Mapping[str, Array], after: Mapping[str, Array]) -> list[str]:
    """The arrays, by UUID, whose scrub ended between two looks, and not because a member failed."""
    return [
        uuid
        for uuid, now in after.items()
        if (was := before.get(uuid)) is not None
        and was.sync is not None
        and was.sync.action in ("check", "repair")
        and now.sync is None
        and healthy(now)
    ]


def _within(hour: int, hours: tuple[int, int]) -> bool:
    first, end = hours
    return first <= hour < end if first < end else hour >= first or hour < end
