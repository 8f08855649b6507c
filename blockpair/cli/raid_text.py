"""Arrays for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blockpair.raid.health import Health
from blockpair.raid.layout import mirrors
from blockpair.raid.model import Array, Part, Sync
from blockpair.raid.outlook import degraded, healthy, lost, survival, until_whole
from blockpair.units import format_duration, format_size


def word(array: Array) -> str:
    """Its state in a word."""
    if lost(array):
        return "FAILED"
    if degraded(array):
        return "DEGRADED"
    return "failed member" if array.having(Part.FAULTY) else "healthy"


def list_lines(arrays: Iterable[Array]) -> list[str]:
    """A line an array."""
    rows = [
        (
            array.name,
            f"{array.geometry.level}{' ' + array.geometry.layout if array.geometry.layout else ''}",
            format_size(array.size_bytes),
            f"{array.geometry.slots - len(array.failed_slots)}/{array.geometry.slots}",
            str(len(array.having(Part.SPARE))),
            array.group or "-",
            word(array) + (f", {sync_words(array.sync)}" if array.sync else ""),
        )
        for array in arrays
    ]
    head = ("ARRAY", "LEVEL", "SIZE", "MEMBERS", "SPARES", "GROUP", "STATE")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]


def sync_words(sync: Sync) -> str:
    """What it does, how far it is and how long it takes."""
    left = "" if sync.eta_seconds is None else f", {format_duration(sync.eta_seconds)} left"
    rate = f" at {format_size(sync.bytes_per_second)}/s" if sync.bytes_per_second else ""
    return f"{sync.action} {100 * sync.fraction:.1f} %{rate}{left}"


def status_lines(array: Array, health: Mapping[str, Health] | None = None) -> list[str]:
    """All about an array. ``health``: by member, where it was looked at."""
    shape = array.geometry
    kind = f"{shape.level}{' ' + shape.layout if shape.layout else ''} of {shape.slots}"
    chunk = f", chunk {format_size(array.chunk_bytes)}" if array.chunk_bytes else ""
    found = [
        f"{array.name}: {word(array)}",
        f"  device    {array.path} ({array.device}), {format_size(array.size_bytes)}",
        f"  layout    {kind}{chunk}, {'write-intent bitmap' if array.bitmap else 'no write-intent bitmap'}",
        f"  state     {array.state}{_waiting(array)}",
    ]
    if array.sync is not None:
        found.append(f"  sync      {sync_words(array.sync)}")
    outlook = "; ".join(part for part in (until_whole(array), survival(array)) if part)
    found.append(f"  outlook   {outlook}")
    if array.group:
        found.append(f"  spares    of the group {array.group}")
    if array.mismatch_bytes:
        found.append(f"  scrub     {format_size(array.mismatch_bytes)} may differ between copies")
    found += [f"  {line}" for line in _members(array, health or {})]
    found += [f"  -> {line}" for line in advice(array)]
    return found


def _waiting(array: Array) -> str:
    return ": until its first write nothing is rebuilt" if array.state == "read-auto" else ""


def _members(array: Array, health: Mapping[str, Health]) -> list[str]:
    order = sorted(array.members, key=lambda m: (m.slot is None, m.slot or 0, m.device))
    lines = []
    for member in order:
        slot = "-" if member.slot is None else str(member.slot)
        words = [member.part.value]
        if member.leaving:
            words.append("being replaced")
        if member.errors:
            words.append(f"{member.errors} sectors mended")
        known = health.get(member.device)
        if known is not None:
            words.append(f"health {known.score}")
        lines.append(f"{slot:>3}  {member.device:<10} {', '.join(words)}")
        if known is not None:
            lines += [f"       {reason.text}" for reason in known.reasons]
    taken = {member.slot for member in array.members if member.part is not Part.FAULTY}
    lines += [f"{slot:>3}  missing" for slot in range(array.geometry.slots) if slot not in taken]
    return lines


def advice(array: Array) -> list[str]:
    """What to do, by command."""
    found = []
    if array.failed_slots and not array.having(Part.SPARE, Part.REBUILDING) and not lost(array):
        found.append(f"blockpair raid spare add {array.name} DEVICE")
    if array.state == "read-auto" and (array.empty_slots or array.unequal):
        found.append(f"mdadm --readwrite {array.path}")
    # Of an array that failed nothing is taken out: what is on its members may still be needed.
    if not lost(array):
        found += [
            f"blockpair raid spare remove {array.name} {member.device}"
            for member in array.having(Part.FAULTY)
        ]
    return found


def mirror_words(shape: Any, devices: Sequence[str]) -> list[str]:
    """Which devices hold the same data, for an array that is to be made."""
    return [
        " + ".join(devices[slot] for slot in sorted(mirror)) for mirror in mirrors(shape) if len(mirror) > 1
    ]


def status_json(array: Array, health: Mapping[str, Health] | None = None) -> dict[str, Any]:
    """The documented JSON of an array."""
    return {
        "name": array.name,
        "device": array.device,
        "path": array.path,
        "uuid": array.uuid,
        "level": array.geometry.level,
        "layout": array.geometry.layout or None,
        "slots": array.geometry.slots,
        "size_bytes": array.size_bytes,
        "component_bytes": array.component_bytes,
        "chunk_bytes": array.chunk_bytes,
        "bitmap": array.bitmap,
        "state": array.state,
        "healthy": healthy(array),
        "degraded": degraded(array),
        "failed": lost(array),
        "spare_group": array.group,
        "survival": survival(array),
        "until_whole": until_whole(array),
        "mismatch_bytes": array.mismatch_bytes,
        "sync": None
        if array.sync is None
        else {
            "action": array.sync.action,
            "done_bytes": array.sync.done_bytes,
            "total_bytes": array.sync.total_bytes,
            "bytes_per_second": array.sync.bytes_per_second,
            "eta_seconds": array.sync.eta_seconds,
        },
        "members": [
            {
                "device": member.device,
                "slot": member.slot,
                "part": member.part.value,
                "leaving": member.leaving,
                "flags": sorted(member.flags),
                "errors": member.errors,
                "size_bytes": member.size_bytes,
                "health": None
                if health is None or member.device not in health
                else {
                    "score": health[member.device].score,
                    "replace": health[member.device].replace,
                    "reasons": [
                        {"code": reason.code, "text": reason.text, "source": reason.source}
                        for reason in health[member.device].reasons
                    ],
                },
            }
            for member in array.members
        ],
        "advice": advice(array),
    }
