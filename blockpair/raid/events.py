"""What happened between two looks at the arrays, each change with its cause and its consequence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from blockpair.raid.layout import critical
from blockpair.raid.model import Array, Member, Part
from blockpair.raid.outlook import degraded, devices_in, lost, survival, until_whole
from blockpair.units import counted, format_size


class Severity(StrEnum):
    """How much an event matters: nothing to do, look at it, act."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Event:
    """``code`` is for programs: ``member.failed``, ``spare.took-over``, ``array.failed`` … ``device``: the
    member it is about, if it is about one.
    """

    array: str
    uuid: str
    code: str
    severity: Severity
    cause: str
    consequence: str
    device: str | None = None

    @property
    def text(self) -> str:
        return f"{self.cause}; {self.consequence}" if self.consequence else self.cause


def changes(before: Mapping[str, Array], after: Mapping[str, Array]) -> list[Event]:
    """The events that lead from ``before`` to ``after`` (arrays by UUID), those of one array together."""
    found = []
    for uuid in [*before, *(uuid for uuid in after if uuid not in before)]:
        old, new = before.get(uuid), after.get(uuid)
        if new is None and old is not None:
            found.append(
                _event(
                    old, "array.gone", Severity.WARNING, f"{old.name} was stopped", "its data is not there"
                )
            )
        elif old is None and new is not None:
            found.append(_appeared(new))
        elif old is not None and new is not None and old != new:
            found += _array_changes(old, new)
    return found


def unsettled(before: Mapping[str, Array], after: Mapping[str, Array]) -> bool:
    """Whether an array has just lost a member, and md has not begun with the spare that it has: in a moment
    it is known what comes of it.
    """
    return any(
        (old := before.get(uuid)) is not None
        and new.failed_slots - old.failed_slots
        and not lost(new)
        and new.state != "read-auto"
        and new.having(Part.SPARE, Part.REBUILDING)
        and (new.sync is None or new.sync.eta_seconds is None)
        for uuid, new in after.items()
    )


def _event(  # noqa: PLR0917 - the fields of an event, in their order
    array: Array,
    code: str,
    severity: Severity,
    cause: str,
    consequence: str = "",
    device: str | None = None,
) -> Event:
    return Event(array.name, array.uuid, code, severity, cause, consequence, device)


def _appeared(array: Array) -> Event:
    severity = Severity.CRITICAL if lost(array) else Severity.WARNING if degraded(array) else Severity.INFO
    what = f"{array.geometry.level} of {array.geometry.slots} members, {format_size(array.size_bytes)}"
    return _event(array, "array.found", severity, f"{array.name} is there: {what}", _outlook(array))


def _outlook(array: Array, *first: str) -> str:
    return "; ".join(part for part in (*first, until_whole(array), survival(array)) if part)


def _array_changes(old: Array, new: Array) -> list[Event]:
    found = _member_events(old, new)
    if lost(new) and not lost(old):
        found.append(
            _event(
                new, "array.failed", Severity.CRITICAL, f"{new.name} failed{_why(old, new)}", _outlook(new)
            )
        )
    return found + _sync_events(old, new)


def _why(old: Array, new: Array) -> str:
    gone = sorted(
        member.device
        for member in old.having(Part.ACTIVE)
        if (now := new.member(member.device)) is None or now.part is not Part.ACTIVE
    )
    if gone:
        return f": it lost {', '.join(gone)}"
    # md keeps the last copy's member, though it failed.
    last = devices_in(old, critical(old.geometry, old.failed_slots))
    return f": the last copy failed, on {' or '.join(last)}" if last else ""


def _member_events(old: Array, new: Array) -> list[Event]:
    took_over = [
        member.device
        for member in new.having(Part.REBUILDING, Part.ACTIVE)
        if (was := old.member(member.device)) is not None and was.part is Part.SPARE
    ]
    found: list[Event] = []
    for member in new.members:
        was = old.member(member.device)
        if was is None:
            found.append(_arrived(new, member))
        elif was != member:
            found += _changed(new, was, member, took_over)
    for was in old.members:
        if new.member(was.device) is None:
            found.append(_left(new, was, took_over))
    failed = any(event.code in ("member.failed", "member.gone") for event in found)
    if failed:
        # The failure's own consequence says who took over.
        found = [event for event in found if event.code != "spare.took-over"]
    return sorted(found, key=lambda event: event.code not in ("member.failed", "member.gone"))


def _severity(array: Array) -> Severity:
    return Severity.CRITICAL if lost(array) else Severity.WARNING


def _failure(array: Array, code: str, cause: str, took_over: Iterable[str], device: str) -> Event:
    helped = [f"spare {spare} took over" for spare in took_over]
    return _event(array, code, _severity(array), cause, _outlook(array, *helped), device)


def _arrived(array: Array, member: Member) -> Event:
    device = member.device
    match member.part:
        case Part.SPARE:
            return _event(
                array,
                "spare.added",
                Severity.INFO,
                f"{device} is a spare of {array.name}",
                f"{counted(len(array.having(Part.SPARE)), 'spare')} now",
                device,
            )
        case Part.ACTIVE:
            # By its bitmap, or rebuilt between two looks: its place is filled.
            return _filled(array, device, f"{device} came to {array.name} and serves")
        case Part.FAULTY:
            return _failure(array, "member.failed", f"{device} failed in {array.name}", (), device)
        case _:
            cause = f"{device} came to {array.name} and is being filled"
            return _event(array, "member.filling", Severity.INFO, cause, _outlook(array), device)


def _left(array: Array, was: Member, took_over: list[str]) -> Event:
    device = was.device
    if was.part in (Part.ACTIVE, Part.REBUILDING):
        return _failure(array, "member.gone", f"{device} is gone from {array.name}", took_over, device)
    if was.part is Part.SPARE:
        left = counted(len(array.having(Part.SPARE)), "spare")
        return _event(
            array, "spare.removed", Severity.INFO, f"spare {device} left {array.name}", f"{left} now", device
        )
    return _event(
        array, "member.removed", Severity.INFO, f"{device} was taken out of {array.name}", "", device
    )


def _changed(array: Array, was: Member, now: Member, took_over: list[str]) -> list[Event]:
    device, found = now.device, []
    if now.errors > was.errors:
        found.append(
            _event(
                array,
                "member.read-errors",
                Severity.WARNING,
                f"{counted(now.errors - was.errors, 'sector')} of {device} in {array.name} could not be read",
                f"written anew from another copy; {now.errors} so far: see its health",
                device,
            )
        )
    match was.part, now.part:
        case (old, new) if old is new:
            if now.leaving and not was.leaving:
                copies = [
                    member.device for member in array.having(Part.REPLACEMENT) if member.slot == now.slot
                ]
                onto = f" onto {', '.join(copies)}" if copies else ""
                found.append(
                    _event(
                        array,
                        "member.replacing",
                        Severity.INFO,
                        f"{device} is being replaced in {array.name}",
                        f"it is copied{onto}, and serves until then; {survival(array)}",
                        device,
                    )
                )
        case (_, Part.FAULTY):
            found.append(_ended(array, was, device, took_over))
        case (Part.FAULTY, _):
            # Taken out and put in again between two looks.
            found.append(_arrived(array, now))
        case (Part.ACTIVE | Part.REBUILDING, Part.SPARE):
            cause = f"{device} left its place in {array.name}, and is a spare now"
            found.append(_failure(array, "member.gone", cause, took_over, device))
        case (Part.SPARE, Part.REBUILDING | Part.ACTIVE):
            cause = f"spare {device} took over in {array.name}"
            found.append(_event(array, "spare.took-over", Severity.WARNING, cause, _outlook(array), device))
            if now.part is Part.ACTIVE:
                found.append(_filled(array, device, f"{device} was filled in {array.name}"))
        case (Part.REBUILDING, Part.ACTIVE):
            found.append(_filled(array, device, f"{device} was filled in {array.name}"))
    return found


def _filled(array: Array, device: str, cause: str) -> Event:
    return _event(array, "member.filled", Severity.INFO, cause, _outlook(array), device)


def _ended(array: Array, was: Member, device: str, took_over: list[str]) -> Event:
    """A member that counts as failed: by a failure, or because its copy is complete."""
    heirs = [member.device for member in array.having(Part.ACTIVE) if member.slot == was.slot]
    if was.leaving and heirs:
        return _event(
            array,
            "member.replaced",
            Severity.INFO,
            f"{device} was replaced by {heirs[0]} in {array.name}",
            f"{device} can be taken out; {survival(array)}",
            device,
        )
    if was.part is Part.SPARE:
        left = counted(len(array.having(Part.SPARE)), "spare")
        cause = f"spare {device} failed in {array.name}"
        return _event(array, "spare.failed", Severity.WARNING, cause, f"{left} left", device)
    return _failure(array, "member.failed", f"{device} failed in {array.name}", took_over, device)


def _sync_events(old: Array, new: Array) -> list[Event]:
    before, after = (array.sync.action if array.sync else None for array in (old, new))
    found: list[Event] = []
    if before is after is None and old.mismatch_bytes != new.mismatch_bytes:
        # One that began and ended between two looks.
        return [_scrubbed(new)]
    if before == after:
        return found
    if before in ("check", "repair"):
        found.append(_scrubbed(new))
    elif before in ("resync", "reshape") and not lost(new):
        found.append(
            _event(new, f"{before}.ended", Severity.INFO, f"the {before} of {new.name} ended", _outlook(new))
        )
    if after in ("check", "repair"):
        cause = f"a scrub of {new.name} began"
        found.append(_event(new, "scrub.started", Severity.INFO, cause, "all copies are read and compared"))
    elif after in ("resync", "reshape"):
        found.append(
            _event(new, f"{after}.started", Severity.INFO, f"a {after} of {new.name} began", _outlook(new))
        )
    return found


def _scrubbed(array: Array) -> Event:
    cause = f"the scrub of {array.name} ended"
    if not array.mismatch_bytes:
        return _event(array, "scrub.ended", Severity.INFO, cause, "no difference was found")
    differing = f"{format_size(array.mismatch_bytes)} may differ between copies"
    if array.geometry.level in ("raid1", "raid10"):
        # md reads the copies one after the other while the application writes: admin-guide/md.rst.
        differing += "; writes under way while it read count too, so nothing was changed"
    return _event(array, "scrub.ended", Severity.WARNING, cause, differing)
