"""The md arrays of the node and their members. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from blockpair.metrics.family import Sample, counter, gauge
from blockpair.raid.health import Health
from blockpair.raid.layout import margin
from blockpair.raid.model import Array, Part
from blockpair.raid.outlook import lost
from blockpair.raid.standing import Standing, standing_of

# The kernel's words, Documentation/admin-guide/md.rst.
_STATES = (
    "clear",
    "inactive",
    "suspended",
    "readonly",
    "read-auto",
    "clean",
    "active",
    "write-pending",
    "active-idle",
    "broken",
)
_ACTIONS = ("resync", "recover", "check", "repair", "reshape")

ARRAY_STATE = gauge("blockpair_array_state", "1 for the state that the kernel says", "array", "state")
SLOTS = gauge("blockpair_array_slots", "Members that the array has when it is whole", "array")
MISSING = gauge(
    "blockpair_array_missing_members", "Of these, those whose data no member has in full", "array"
)
SURVIVES = gauge(
    "blockpair_array_survives_failures",
    "Further failures of members that it survives, whichever they are; 0 as well where it has failed",
    "array",
)
SPARES = gauge("blockpair_array_spares", "Hot spares at hand in it", "array")
ARRAY_SIZE = gauge("blockpair_array_size_bytes", "Size of the array", "array")
MISMATCH = gauge("blockpair_array_mismatch_bytes", "What the last check found unequal", "array")
HEALED = counter(
    "blockpair_array_healed_bytes_total",
    "What differed between copies and was written anew as the peer of the resource has it",
    "array",
)
UNDECIDED = gauge(
    "blockpair_array_undecided_bytes",
    "Copies that differ, after the last scrub, and that the peer's does not decide",
    "array",
)
MEMBER_PART = gauge(
    "blockpair_array_member", "1 for what the device is for its array", "array", "device", "part"
)
MEMBER_ERRORS = counter(
    "blockpair_array_member_errors_total",
    "Sectors of the device that could not be read and were written anew",
    "array",
    "device",
)
MEMBER_HEALTH = gauge(
    "blockpair_array_member_health",
    "From 100 to 0 by what the disk tells of itself and its latency; where the daemon watches",
    "array",
    "device",
)
SYNC = gauge("blockpair_array_sync_running", "1 while the kernel does this with the array", "array", "action")
SYNC_SIZE = gauge(
    "blockpair_array_sync_size_bytes", "What there is to do, of each member; 0: nothing", "array"
)
SYNC_DONE = gauge("blockpair_array_sync_done_bytes", "What of it is done", "array")
SYNC_RATE = gauge("blockpair_array_sync_bytes_per_second", "How fast it goes", "array")


def arrays(
    found: Iterable[Array],
    health: Mapping[str, Health],
    healed: Mapping[str, int],
    standings: Mapping[str, Standing],
) -> Iterator[Sample]:
    """Of every array, by its stable name. ``health``: of the members, ``healed`` and ``standings``: of
    differences between copies, by UUID, where the daemon watches them.
    """
    for array in found:
        yield from _array(array, health)
        standing = standing_of(array, standings)
        yield HEALED.sample(healed.get(array.uuid, 0), array.name)
        yield UNDECIDED.sample(standing.undecided + standing.peer_differs if standing else 0, array.name)


def _array(array: Array, health: Mapping[str, Health]) -> Iterator[Sample]:
    name = array.name
    yield from ARRAY_STATE.states(array.state or "clear", _STATES, name)
    yield SLOTS.sample(array.geometry.slots, name)
    yield MISSING.sample(len(array.failed_slots), name)
    yield SURVIVES.sample(0 if lost(array) else margin(array.geometry, array.failed_slots), name)
    yield SPARES.sample(len(array.having(Part.SPARE)), name)
    yield ARRAY_SIZE.sample(array.size_bytes, name)
    yield MISMATCH.sample(array.mismatch_bytes, name)
    for member in array.members:
        yield from MEMBER_PART.states(member.part.value, [part.value for part in Part], name, member.device)
        yield MEMBER_ERRORS.sample(member.errors, name, member.device)
        if member.device in health:
            yield MEMBER_HEALTH.sample(health[member.device].score, name, member.device)
    sync = array.sync
    for action in _ACTIONS:
        yield SYNC.sample(sync is not None and sync.action == action, name, action)
    yield SYNC_SIZE.sample(sync.total_bytes if sync else 0, name)
    yield SYNC_DONE.sample(sync.done_bytes if sync else 0, name)
    yield SYNC_RATE.sample(sync.bytes_per_second if sync else 0, name)
