"""Which spare serves which array. Pure.

mdadm's rule of spare groups: a spare serves the array that it is in, and the other arrays of the same group
when its own does not need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blockpair.raid.layout import margin, mirrors
from blockpair.raid.model import Array, Member, Part, Speed


@dataclass(frozen=True)
class Need:
    """A place in an array that a spare should fill. ``margin``: how many failures the array still survives.
    ``enclosures``: of the members that hold the copies that are left.
    """

    array: str
    name: str
    slot: int
    group: str | None
    size_bytes: int
    speed: Speed
    margin: int
    enclosures: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Spare:
    """A spare and the array that has it now."""

    device: str
    array: str
    group: str | None
    size_bytes: int
    speed: Speed = Speed.UNKNOWN
    enclosure: str | None = None


@dataclass(frozen=True)
class Assignment:
    """``spare`` shall fill ``need``. It must be moved there first unless it is there."""

    spare: Spare
    need: Need
    reason: str

    @property
    def moves(self) -> bool:
        """Whether another array has the spare: the kernel takes an array's own by itself."""
        return self.spare.array != self.need.array


@dataclass(frozen=True)
class Decision:
    """Who gets what; ``unmet`` are needs without a spare, each with the reason, for people."""

    assignments: tuple[Assignment, ...]
    unmet: tuple[tuple[Need, str], ...]


def decide(arrays: Iterable[Array]) -> Decision:
    """What to do for the arrays as they are. An array that has lost data gets no spare: nothing would be left
    to fill it from.
    """
    known = [array for array in arrays if array.active]
    return assign(
        [need for array in known for need in needs_of(array)],
        [spare for array in known for spare in spares_of(array)],
    )


def needs_of(array: Array) -> list[Need]:
    """The places in ``array`` that nobody fills. None where it has no redundancy, or has lost data."""
    failed = array.failed_slots
    left = margin(array.geometry, failed)
    if left < 0 or array.geometry.level in ("raid0", "linear"):
        return []
    speeds = [member.speed for member in array.having(Part.ACTIVE)]
    return [
        Need(
            array=array.uuid,
            name=array.name,
            slot=slot,
            group=array.group,
            size_bytes=array.component_bytes,
            # The slowest member sets the pace of an array.
            speed=min(speeds, default=Speed.UNKNOWN),
            margin=left,
            enclosures=frozenset(
                member.enclosure for member in _partners(array, slot) if member.enclosure is not None
            ),
        )
        for slot in sorted(array.empty_slots)
    ]


def spares_of(array: Array) -> list[Spare]:
    """The spares of ``array`` that wait for work."""
    return [
        Spare(member.device, array.uuid, array.group, member.size_bytes, member.speed, member.enclosure)
        for member in array.having(Part.SPARE)
    ]


def _partners(array: Array, slot: int) -> list[Member]:
    """The active members with copies of what ``slot`` should have."""
    places = set().union(*(mirror for mirror in mirrors(array.geometry) if slot in mirror)) or set(
        range(array.geometry.slots)
    )
    return [member for member in array.having(Part.ACTIVE) if member.slot in places]


def assign(needs: Sequence[Need], spares: Sequence[Spare]) -> Decision:
    """The assignment that fills as many needs as can be. Where not all can, those of the arrays that survive
    least go first. Of the spares that would do, each need gets the one that suits it best, as far as that
    takes none from another.
    """
    urgent = sorted(needs, key=lambda need: (need.margin, need.name, need.array, need.slot))
    at_home = _needed_at_home(needs, spares)
    choices = {
        need: sorted(
            (spare for spare in spares if _refusal(need, spare, at_home) is None),
            key=lambda spare: _rank(need, spare),
        )
        for need in urgent
    }
    taken: dict[Spare, Need] = {}
    for need in urgent:
        _find_place(need, choices, taken, set())
    given = {need: spare for spare, need in taken.items()}
    return Decision(
        tuple(Assignment(given[need], need, _reason(need, given[need])) for need in urgent if need in given),
        tuple((need, _why_none(need, spares, at_home)) for need in urgent if need not in given),
    )


def _find_place(
    need: Need, choices: dict[Need, list[Spare]], taken: dict[Spare, Need], tried: set[Spare]
) -> bool:
    """Give ``need`` a spare, also one that somebody has who can take another (an augmenting path): whoever
    was served stays served.
    """
    free = [spare for spare in choices[need] if spare not in taken]
    if free:
        taken[free[0]] = need
        return True
    for spare in choices[need]:
        if spare in tried:
            continue
        tried.add(spare)
        if _find_place(taken[spare], choices, taken, tried):
            taken[spare] = need
            return True
    return False


def _needed_at_home(needs: Sequence[Need], spares: Sequence[Spare]) -> frozenset[Spare]:
    """The spares that their own arrays could use: those are not given away."""
    return frozenset(
        spare
        for spare in spares
        for need in needs
        if need.array == spare.array and spare.size_bytes >= need.size_bytes
    )


def _refusal(need: Need, spare: Spare, at_home: frozenset[Spare]) -> str | None:
    """Why ``spare`` cannot serve ``need``."""
    if spare.array != need.array:
        if need.group is None or spare.group != need.group:
            return f"{spare.device} is of another array, and not of the same spare group"
        if spare in at_home:
            return f"{spare.device} is needed by its own array"
    if spare.size_bytes < need.size_bytes:
        return f"{spare.device} is too small: {spare.size_bytes} of {need.size_bytes} bytes"
    return None


def _rank(need: Need, spare: Spare) -> tuple[bool, int, bool, int, str]:
    """The smaller, the better: in the array already; of the same class, then faster, then slower; not in the
    enclosure of the copies that are left; the smallest that is large enough; by name.
    """
    if Speed.UNKNOWN in (need.speed, spare.speed) or spare.speed == need.speed:
        speed = 0
    else:
        speed = 1 if spare.speed > need.speed else 2
    return (
        spare.array != need.array,
        speed,
        spare.enclosure is not None and spare.enclosure in need.enclosures,
        spare.size_bytes - need.size_bytes,
        spare.device,
    )


def _reason(need: Need, spare: Spare) -> str:
    where = "its own" if spare.array == need.array else f"of the spare group {need.group}"
    _, speed, shared, *_ = _rank(need, spare)
    words = [f"{spare.device} is {where}"]
    if speed:
        words.append(
            "faster than the members" if speed == 1 else "slower than the members: no better one is free"
        )
    if shared:
        words.append(f"in the enclosure of the copy that is left ({spare.enclosure}): no other is free")
    return ", ".join(words)


def _why_none(need: Need, spares: Sequence[Spare], at_home: frozenset[Spare]) -> str:
    if not spares:
        return "there is no spare"
    refusals = [refusal for spare in spares if (refusal := _refusal(need, spare, at_home)) is not None]
    if len(refusals) < len(spares):
        return "its spares went to arrays that survive less"
    return "; ".join(refusals)
