"""Arrays, members and disks for the tests of what decides about them."""

from __future__ import annotations

from blockpair.raid.layout import geometry
from blockpair.raid.model import Array, Disk, Member, Speed, Sync

GIB = 1 << 30
IN_SYNC = frozenset({"in_sync"})
SPARE = frozenset({"spare"})
FAULTY = frozenset({"faulty"})


def member(device: str, slot: int | None, flags: frozenset[str] | None = None, **more: object) -> Member:
    """A member of 1 GiB; in sync where it has a slot, else a spare."""
    state = flags if flags is not None else (SPARE if slot is None else IN_SYNC)
    return Member(device, slot, state, **{"size_bytes": GIB, **more})  # type: ignore[arg-type]


def array(
    name: str = "data",
    members: str | tuple[Member, ...] = "abcd",
    *,
    level: str = "raid10",
    layout: str = "",
    slots: int | None = None,
    sync: Sync | None = None,
    state: str = "clean",
    group: str | None = None,
) -> Array:
    """An array; ``members``: letters of disks that are in sync, in the order of the slots."""
    made = (
        tuple(member(f"sd{letter}", slot) for slot, letter in enumerate(members))
        if isinstance(members, str)
        else members
    )
    return Array(
        device="md127",
        name=name,
        uuid=f"uuid-{name}",
        geometry=geometry(level, slots or len(made), layout),
        size_bytes=2 * GIB,
        component_bytes=GIB,
        chunk_bytes=512 << 10,
        state=state,
        members=made,
        sync=sync,
        group=group,
    )


def disk(name: str, size_bytes: int = GIB, **more: object) -> Disk:
    """A free disk of its own."""
    defaults = {"path": f"/dev/{name}", "disks": frozenset({name}), "speed": Speed.ROTATIONAL}
    return Disk(name=name, size_bytes=size_bytes, **{**defaults, **more})  # type: ignore[arg-type]
