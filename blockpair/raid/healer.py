"""Does for arrays what needs no person (`heal`), or only tells what it would do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from blockpair.errors import BlockpairError
from blockpair.raid import devices, mdadm, sysfs
from blockpair.raid.admission import refusals
from blockpair.raid.apply import carry_out
from blockpair.raid.events import Event, Severity
from blockpair.raid.heal import MOST_RETURNS, Action, actions, adopter, adoption, may_return
from blockpair.raid.health import Health
from blockpair.raid.model import Array
from blockpair.raid.rules import Rules

# What failed is tried again after this time.
_REST_SECONDS = 60.0
_Key = tuple[str, str, str | None]


class Healer:
    """``resources``: the directory of this node's resource files, whose devices are never taken."""

    def __init__(self, rules: Rules, resources: Path | None, clock: Callable[[], float]) -> None:
        self._rules, self._resources, self._clock = rules, resources, clock
        self._proposed: set[_Key] = set()
        self._rest_until: dict[_Key, float] = {}
        self._returns: dict[str, list[float]] = {}

    def act(
        self, arrays: Mapping[str, Array], health: Mapping[str, Health], came: Collection[str] | None
    ) -> Iterator[Event]:
        """Do, or without ``heal`` only tell, what there is to do. ``came``: the devices that were just
        plugged in; None at the start. A member that was there already, and is in no array, was perhaps taken
        out by a person: it is told of and not touched.
        """
        proposed = set()
        returned, flapping = self._returned(arrays, came)
        yield from flapping
        adopted, refused = self._adopted(arrays, came or (), returned)
        yield from refused
        for action in [*actions(arrays, health, returned), *adopted]:
            key = (action.code, action.uuid, action.device)
            if not self._rules.heal or (came is None and action.code == "member.returns"):
                proposed.add(key)
                if key not in self._proposed:
                    yield _event(action, "to do", "; ".join(step.shown for step in action.steps))
            elif self._clock() >= self._rest_until.get(key, float("-inf")):
                yield self._done(action, key)
        self._proposed = proposed

    def _done(self, action: Action, key: _Key) -> Event:
        try:
            carry_out(action.steps)
        except BlockpairError as error:
            self._rest_until[key] = self._clock() + _REST_SECONDS
            return _event(action, "failed", error.message, Severity.WARNING)
        return _event(action, "done", "")

    def _returned(
        self, arrays: Mapping[str, Array], came: Collection[str] | None
    ) -> tuple[dict[str, str], list[Event]]:
        """Of the devices that came, or at the start of all, those in no array that were members of one which
        lacks a member; and events about those that came too often.
        """
        if (came is not None and not came) or not any(array.empty_slots for array in arrays.values()):
            return {}, []
        now = self._clock()
        found: dict[str, str] = {}
        flapping: list[Event] = []
        for device in sysfs.idle_devices():
            if came is not None and device not in came:
                continue
            block = mdadm.examine(f"/dev/{device}")
            if block is None or block.uuid.lower() not in arrays:
                continue
            times = self._returns.setdefault(device, [])
            if may_return(times, now):
                times.append(now)
                found[device] = block.uuid.lower()
            else:
                flapping.append(_flaps(arrays[block.uuid.lower()], device))
        return found, flapping

    def _adopted(
        self, arrays: Mapping[str, Array], came: Collection[str], returned: Collection[str]
    ) -> tuple[list[Action], list[Event]]:
        """The disks that were plugged in where a rule wants spares, and why others there are none."""
        if not self._rules.adopt:
            return [], []
        members = {member.device for array in arrays.values() for member in array.members}
        found: list[Action] = []
        refused: list[Event] = []
        for device in sorted(set(came) - members - set(returned)):
            fits = adopter(self._rules.adopt, sysfs.places(device), arrays.values())
            if fits is None:
                continue
            array, place = fits
            try:
                disk = devices.look(f"/dev/{device}", self._resources)
            except BlockpairError:
                # It has gone again.
                continue
            present = [
                known for entry in array.members if (known := devices.member_disk(entry.device)) is not None
            ]
            why = refusals([disk], present=present, at_least=array.component_bytes, tolerance=None)
            if why:
                reasons = "; ".join(refusal.reason for refusal in why)
                refused.append(_refused(array, device, place, reasons))
            else:
                found.append(adoption(array, disk, place))
        return found, refused


def _refused(array: Array, device: str, place: str, why: str) -> Event:
    return Event(
        array.name,
        array.uuid,
        "spare.refused",
        Severity.WARNING,
        f"{device}, plugged in at {place}, does not become a spare of {array.name}: {why}",
        f"if it shall be one all the same: blockpair raid spare add {array.name} /dev/{device} --force",
        device,
    )


def _flaps(array: Array, device: str) -> Event:
    return Event(
        array.name,
        array.uuid,
        "member.flaps",
        Severity.WARNING,
        f"{device} of {array.name} came back more than {MOST_RETURNS} times within an hour",
        f"it is left out: see its cable and its health, then: blockpair raid readd {array.name} {device}",
        device,
    )


def _event(action: Action, state: str, what: str, severity: Severity = Severity.INFO) -> Event:
    consequence = f"{state}: {what}" if what else state
    return Event(action.array, action.uuid, action.code, severity, action.reason, consequence, action.device)
