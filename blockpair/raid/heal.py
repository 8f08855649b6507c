"""What to do for arrays without asking a person: nothing that loses redundancy or data. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from blockpair.raid import policy, steps
from blockpair.raid.health import Health, to_replace
from blockpair.raid.model import Array, Disk, Part
from blockpair.raid.outlook import lost
from blockpair.raid.steps import Step

# A device that comes and goes is taken back this often within that time; then a person must look at it.
MOST_RETURNS = 3
RETURNS_SECONDS = 3600.0


@dataclass(frozen=True)
class Action:
    """Steps for one array, and in words why."""

    code: str
    array: str
    uuid: str
    reason: str
    steps: tuple[Step, ...]
    device: str | None = None


def actions(
    arrays: Mapping[str, Array],
    health: Mapping[str, Health] | None = None,
    returned: Mapping[str, str] | None = None,
) -> list[Action]:
    """What to do now, each array at most once: what comes of it is to be seen first. ``arrays`` by UUID;
    ``returned``: devices that are in no array, with the UUID of the one they were members of.
    """
    found: dict[str, Action] = {}
    for array in arrays.values():
        action = _first_write(array) or _return(array, returned or {})
        if action is not None:
            found[array.uuid] = action
    for given in policy.decide(arrays.values()).assignments:
        giver, taker = arrays[given.spare.array], arrays[given.need.array]
        if given.moves and not {giver.uuid, taker.uuid} & set(found):
            found[taker.uuid] = Action(
                "spare.moved",
                taker.name,
                taker.uuid,
                f"spare {given.spare.device} goes from {giver.name} to {taker.name}: {given.reason}",
                tuple(steps.move_spare(giver, taker, given.spare.device)),
                given.spare.device,
            )
    for array in arrays.values():
        pair = to_replace(array, health or {})
        if pair is not None and array.uuid not in found:
            ill, spare = pair
            why = (health or {})[ill].why
            found[array.uuid] = Action(
                "member.replace",
                array.name,
                array.uuid,
                f"{ill} of {array.name} is likely to fail ({why}): it is copied onto {spare}",
                tuple(steps.replace(array, ill, spare)),
                ill,
            )
    return list(found.values())


def adoption(array: Array, disk: Disk, place: str) -> Action:
    """To make a blank disk that was plugged in at ``place`` a spare, as the configuration has it."""
    return Action(
        "spare.adopted",
        array.name,
        array.uuid,
        f"{disk.name}, plugged in at {place}, becomes a spare of {array.name} by rule",
        tuple(steps.add_spares(array, [disk])),
        disk.name,
    )


def adopter(
    rules: Mapping[str, Sequence[str]], places: Collection[str], arrays: Iterable[Array]
) -> tuple[Array, str] | None:
    """The array that a disk at these places is for, by ``rules`` (patterns by array), and the place that
    fits; None where no rule says so, or that array cannot be helped.
    """
    for array in sorted(arrays, key=lambda array: array.name):
        for pattern in rules.get(array.name, ()):
            fits = sorted(place for place in places if fnmatchcase(place, pattern))
            if fits and not lost(array):
                return array, fits[0]
    return None


def _first_write(array: Array) -> Action | None:
    waits = array.having(Part.REBUILDING) or (array.empty_slots and array.having(Part.SPARE))
    if array.state != "read-auto" or not (waits or array.unequal) or lost(array):
        return None
    return Action(
        "array.writable",
        array.name,
        array.uuid,
        f"{array.name} waited for its first write before it rebuilds",
        (steps.Writable(array.path),),
    )


def _return(array: Array, returned: Mapping[str, str]) -> Action | None:
    """Without a bitmap a member that comes back would be rebuilt from the start: a spare is as good, and
    known to be whole.
    """
    if not array.empty_slots or not array.bitmap or lost(array):
        return None
    for device, uuid in sorted(returned.items()):
        present = array.member(device)
        if uuid == array.uuid and (present is None or present.part is Part.FAULTY):
            return Action(
                "member.returns",
                array.name,
                array.uuid,
                f"{device} of {array.name} is back",
                tuple(steps.re_add(array, device)),
                device,
            )
    return None


def may_return(times: Sequence[float], now: float) -> bool:
    """Whether a device that was taken back at ``times`` may be once more."""
    return sum(now - time < RETURNS_SECONDS for time in times) < MOST_RETURNS
