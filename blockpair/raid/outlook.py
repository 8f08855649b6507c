"""What an array's state means to a person: what it survives, how long until it is whole. Pure."""

from __future__ import annotations

from blockpair.raid.layout import critical, margin
from blockpair.raid.model import Array, Part
from blockpair.units import format_duration

REBUILDS = ("recover", "resync", "reshape")


def lost(array: Array) -> bool:
    """Whether data is missing: more failed than it survives, or it does not run."""
    return not array.active or margin(array.geometry, array.failed_slots) < 0


def degraded(array: Array) -> bool:
    """Whether a member's place has no data, or not all of it yet."""
    return bool(array.failed_slots) and array.geometry.level not in ("raid0", "linear")


def healthy(array: Array) -> bool:
    """Whether nothing needs attention."""
    return not lost(array) and not degraded(array) and not array.having(Part.FAULTY)


def survival(array: Array) -> str:
    """Which further failures it survives."""
    failed = array.failed_slots
    left = margin(array.geometry, failed)
    # md keeps the last copy as a member although it failed: the state alone tells.
    if left < 0 or array.state == "broken":
        return "has lost data: too many members failed"
    if not array.active:
        return "does not run"
    if left > 0:
        return f"survives any {failures(left, 'more ' if failed else '')}"
    dangerous = critical(array.geometry, failed)
    names = devices_in(array, dangerous)
    if len(dangerous) == array.geometry.slots - len(failed):
        return "survives no failure" if not failed else "the next failure loses data"
    return f"survives any one more failure except {_either(names)}"


def failures(number: int, which: str = "") -> str:
    """``one failure``, ``2 more failures``."""
    return f"one {which}failure" if number == 1 else f"{number} {which}failures"


def devices_in(array: Array, slots: frozenset[int]) -> list[str]:
    """The devices that serve ``slots``."""
    return sorted(member.device for member in array.having(Part.ACTIVE) if member.slot in slots)


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def until_whole(array: Array) -> str:  # noqa: PLR0911 - a case, a line
    """How long until all places are filled, or why that will not be by itself; empty where all are."""
    failed = array.failed_slots
    if not failed or array.geometry.level in ("raid0", "linear"):
        return ""
    if lost(array):
        return "no spare can help: put failed members back, or restore the data"
    filling = array.having(Part.REBUILDING)
    if not filling:
        spares = array.having(Part.SPARE)
        if not spares:
            return "no spare is there: add one"
        if array.state == "read-auto":
            return "it waits for its first write before it rebuilds"
        return f"spare {spares[0].device} is there and has not begun yet"
    names = ", ".join(member.device for member in filling)
    sync = array.sync
    if sync is None or sync.action not in REBUILDS:
        return f"{names} waits to be filled"
    if sync.eta_seconds is None:
        return f"{names} is being filled"
    rest = "" if len(filling) == len(failed) else f", then {len(failed) - len(filling)} still missing"
    return f"{format_duration(sync.eta_seconds)} to full redundancy{rest}"
