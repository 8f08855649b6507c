"""The commands of ``blockpair raid`` that change an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockpair.cli.output import json_option, print_json
from blockpair.cli.raid_run import (
    admit,
    array_argument,
    check_root,
    find,
    force_option,
    kernel_name,
    look_at,
    members_of,
    perform,
    plan_option,
    wait_option,
    yes_option,
)
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.raid.layout import Geometry
    from blockpair.raid.model import Array, Disk, Member

_LEVELS = ("0", "1", "5", "6", "10")
devices_option = click.option(
    "--devices",
    multiple=True,
    required=True,
    metavar="DEV[,DEV…]",
    help="The members, in the order of their places; may be given more than once.",
)


@click.command("create", short_help="Make an array of free disks.")
@click.argument("name", metavar="ARRAY")
@click.option(
    "--level", type=click.Choice(_LEVELS), default="10", show_default=True, help="Which RAID level."
)
@click.option(
    "--layout", default="", metavar="LAYOUT", help="Of level 10: n2 (near, the default), f2 (far), o2, n3 …"
)
@click.option("--chunk", default="512K", show_default=True, metavar="SIZE", help="How much lies together.")
@click.option(
    "--bitmap-chunk",
    metavar="SIZE",
    help="What a bit of the write-intent bitmap stands for; default: mdadm's, 64M. With less, less is copied "
    "to a member that was away, and the bitmap is written more often.",
)
@devices_option
@click.option("--spares", multiple=True, metavar="DEV[,DEV…]", help="Hot spares.")
@click.option("--spare-group", metavar="GROUP", help="Share spares with the other arrays of GROUP.")
@click.option("--unequal", is_flag=True, help="Take devices that differ in size by more than 1 %.")
@force_option
@plan_option
@yes_option
@wait_option
@json_option
def create(
    *,
    name: str,
    level: str,
    layout: str,
    chunk: str,
    bitmap_chunk: str | None,
    devices: tuple[str, ...],
    spares: tuple[str, ...],
    spare_group: str | None,
    unequal: bool,
    force: bool,
    plan: bool,
    yes: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Make the array ARRAY, /dev/md/ARRAY, with a write-intent bitmap, and add it to mdadm.conf.

    Refused (exit code 3) for devices in use, devices that carry a signature (--force wipes it), and two
    members on one physical disk; for sizes that differ by more than 1 % unless --unequal.

    \b
    Examples:
      blockpair raid create data --devices /dev/sdb,/dev/sdc,/dev/sdd,/dev/sde --spares /dev/sdf --plan
      blockpair raid create data --layout f2 --devices /dev/sdb,/dev/sdc --wait
      blockpair raid create fast --level 1 --devices /dev/nvme0n1,/dev/nvme1n1 --spare-group pool
    """
    from blockpair.raid import steps
    from blockpair.raid.admission import SIZE_TOLERANCE, refusals

    check_root()
    _check_name(name)
    disks, extra = look_at(devices), look_at(spares)
    shape = _shape(f"raid{level}", len(disks), layout)
    chunk_bytes = 0 if level == "1" else _chunk("--chunk", chunk)
    bitmap_bytes = 0 if bitmap_chunk is None else _chunk("--bitmap-chunk", bitmap_chunk)
    admit(refusals([*disks, *extra], tolerance=None if unequal else SIZE_TOLERANCE, force=force))
    uuid = _new_uuid()
    made = steps.create(
        name,
        shape,
        disks,
        chunk_bytes=chunk_bytes,
        bitmap_bytes=bitmap_bytes,
        spares=extra,
        group=spare_group,
        uuid=uuid,
    )
    wiped = any(disk.signatures for disk in [*disks, *extra])
    if not perform(
        made,
        plan=plan,
        as_json=as_json,
        yes=yes,
        typed=name if wiped else None,
        also=_told(name, shape, disks, chunk_bytes),
    ):
        return
    if follow:
        _follow(uuid, lambda now: now.sync is None and not now.unequal, as_json=as_json)
    _finish(uuid, as_json=as_json, next_=steps.INITRAMFS)


def _check_name(name: str) -> None:
    from blockpair.config.names import check_name
    from blockpair.raid.inventory import Inventory

    try:
        check_name(name)
        # mdadm keeps 32 bytes of HOST:NAME, and takes md127 and 127 for numbers of devices.
        if len(name) > 24 or name.isdigit() or (name.startswith("md") and name[2:].isdigit()):
            raise ValueError(
                f"{name!r} is not a name for an array: up to 24 characters, not a number, not md127"
            )
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "choose another name") from None
    for array in Inventory().arrays().values():
        if name in (array.name, array.device):
            raise BlockpairError(
                ErrorKind.EXISTS,
                f"there is an array {name} already",
                f"choose another name, or look at it: blockpair raid status {name}",
            )


def _shape(level: str, members: int, layout: str) -> Geometry:
    from blockpair.raid.layout import geometry

    try:
        return geometry(level, members, layout)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "see blockpair raid create --help") from None


def _chunk(option: str, text: str) -> int:
    from blockpair.units import parse_size

    try:
        size = parse_size(text)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, f"{option}: {error}", f"such as {option} 512K") from None
    if size < 4096 or size & (size - 1):
        raise BlockpairError(
            ErrorKind.USAGE, f"{option} {text}: not a power of two from 4K on", f"such as {option} 512K"
        )
    return size


def _new_uuid() -> str:
    """As mdadm writes them."""
    import uuid

    text = uuid.uuid4().hex
    return ":".join(text[at : at + 8] for at in range(0, 32, 8))


def _told(name: str, shape: Geometry, disks: list[Disk], chunk_bytes: int) -> list[str]:
    """What the array would be: capacity, which failures it survives."""
    from blockpair.cli.raid_text import mirror_words
    from blockpair.raid.layout import capacity, margin
    from blockpair.raid.outlook import failures
    from blockpair.units import format_size

    size = capacity(shape, min(disk.size_bytes for disk in disks), chunk_bytes)
    left = margin(shape, set())
    told = [
        f"{name}: {shape.level}{' ' + shape.layout if shape.layout else ''} of {len(disks)} members, about "
        f"{format_size(size)} (less what md keeps for itself)",
        f"  survives any {failures(left)}" if left else "  survives no failure",
    ]
    pairs = mirror_words(shape, [disk.path for disk in disks])
    if len(pairs) > 1:
        told.append(f"  more, as long as of each of these one is left: {'; '.join(pairs)}")
    return told


def _finish(uuid: str, *, as_json: bool, next_: str = "") -> None:
    """Show what came of it."""
    from blockpair.cli.raid_text import status_json, status_lines

    array = find(uuid)
    if as_json:
        print_json({"array": status_json(array), "next": next_ or None})
        return
    click.echo("\n".join(status_lines(array)))
    if next_:
        click.echo(f"Next, so that it is known early at boot: `{next_}`")


def _follow(uuid: str, done: object, *, as_json: bool) -> Array:
    from blockpair.cli.raid_progress import follow

    assert callable(done)
    return follow(uuid, done, quiet=as_json)


@click.command("grow", short_help="Add members, or use larger ones in full.")
@array_argument
@click.option("--devices", multiple=True, metavar="DEV[,DEV…]", help="New members.")
@click.option("--size-max", is_flag=True, help="Use what members have more than the array takes of them.")
@force_option
@plan_option
@yes_option
@wait_option
@json_option
def grow(
    *,
    name: str,
    devices: tuple[str, ...],
    size_max: bool,
    force: bool,
    plan: bool,
    yes: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Add members, over which the data is spread anew while it is in use; or, after all members were
    replaced by larger ones, use all of them. What is on the array does not grow by itself.

    \b
    Examples:
      blockpair raid grow data --devices /dev/sdg,/dev/sdh --plan
      blockpair raid grow data --size-max
    """
    from blockpair.raid import steps

    array = find(name)
    if bool(devices) == size_max:
        raise BlockpairError(
            ErrorKind.USAGE, "either --devices or --size-max is needed", "see blockpair raid grow --help"
        )
    _check_growable(array, size_max=size_max)
    if size_max:
        made = steps.grow_size(array)
    else:
        disks = look_at(devices)
        _admit_to(array, disks, force=force)
        made = steps.grow(array, disks)
    if not perform(made, plan=plan, as_json=as_json, yes=yes):
        return
    if follow:
        _follow(array.uuid, lambda now: now.sync is None and not now.unequal, as_json=as_json)
    _finish(array.uuid, as_json=as_json)


def _check_growable(array: Array, *, size_max: bool) -> None:
    level, layout = array.geometry.level, array.geometry.layout
    if array.failed_slots or array.sync is not None:
        raise BlockpairError(
            ErrorKind.BUSY,
            f"{array.name} is not whole, or busy: it cannot grow now",
            f"blockpair raid status {array.name}",
        )
    if level in ("raid0", "linear") or (level == "raid10" and layout.startswith("f")):
        raise BlockpairError(
            ErrorKind.INVALID,
            f"{array.name} cannot grow: md does not reshape {level} {layout}".rstrip(),
            "make a new array, and copy",
        )
    if level == "raid10" and size_max and not layout.startswith("n"):
        raise BlockpairError(
            ErrorKind.INVALID,
            f"{array.name}: md cannot resize the layout {layout}",
            "make a new array, and copy",
        )


def _admit_to(array: Array, disks: list[Disk], *, force: bool) -> None:
    from blockpair.raid.admission import refusals

    admit(
        refusals(
            disks, present=members_of(array), at_least=array.component_bytes, tolerance=None, force=force
        )
    )


@click.command("stop", short_help="End an array; the data stays.")
@array_argument
@plan_option
@json_option
def stop(*, name: str, plan: bool, as_json: bool) -> None:
    """Stop ARRAY; its data stays, and it is assembled again at the next boot. Refused (3) while it is in use.

    \b
    Examples:
      blockpair raid stop data
    """
    from blockpair.raid import steps

    array = find(name)
    _check_unused(array)
    if perform(steps.stop(array), plan=plan, as_json=as_json) and as_json:
        print_json({"stopped": array.name})


@click.command("delete", short_help="End an array for good; its data is lost.")
@array_argument
@plan_option
@yes_option
@json_option
def delete(*, name: str, plan: bool, yes: bool, as_json: bool) -> None:
    """Stop ARRAY, take its metadata off all members and its line out of mdadm.conf. The data is lost.
    Refused (3) while it is in use. Asks for the name unless --yes.

    \b
    Examples:
      blockpair raid delete data --plan
    """
    from blockpair.raid import steps

    array = find(name)
    _check_unused(array)
    if not perform(steps.delete(array), plan=plan, as_json=as_json, yes=yes, typed=array.name):
        return
    if as_json:
        print_json({"deleted": array.name, "next": steps.INITRAMFS})
    else:
        click.echo(f"Next, so that it is not looked for at boot: `{steps.INITRAMFS}`")


def _check_unused(array: Array) -> None:
    from pathlib import Path

    from blockpair.signature import uses

    users = uses(Path(f"/dev/{array.device}"))
    if users:
        raise BlockpairError(
            ErrorKind.IN_USE,
            f"{array.name} is in use: {'; '.join(users)}",
            "unmount it, or take the resource on it down: blockpair down NAME",
        )


@click.command("replace", short_help="Copy a member onto a spare before it fails.")
@array_argument
@click.argument("member", metavar="MEMBER")
@click.option("--with", "spare", metavar="DEV", help="The spare; default: the best one that the array has.")
@force_option
@plan_option
@wait_option
@json_option
def replace(
    *, name: str, member: str, spare: str | None, force: bool, plan: bool, follow: bool, as_json: bool
) -> None:
    """Copy MEMBER onto a spare while it still serves, so that redundancy is never less; then it counts as
    failed. With --wait it is taken out of the array at the end. A device given by --with that is no spare of
    ARRAY yet becomes one; all that is on it is lost.

    \b
    Examples:
      blockpair raid replace data /dev/sdc --wait
      blockpair raid replace data sdc --with /dev/sdg --plan
    """
    from blockpair.raid import steps
    from blockpair.raid.model import Part

    array = find(name)
    leaving = _member(array, member, Part.ACTIVE)
    if leaving.leaving:
        raise BlockpairError(
            ErrorKind.BUSY,
            f"{leaving.device} is being replaced already",
            f"blockpair raid status {array.name}",
        )
    chosen, added = _replacement(array, spare, force=force)
    made = steps.replace(array, leaving.device, chosen, added)
    if not perform(made, plan=plan, as_json=as_json):
        return
    if follow:
        _follow(array.uuid, lambda now: _is_out(now, leaving.device), as_json=as_json)
        now = find(array.uuid)
        if now.member(leaving.device) is not None:
            perform(steps.remove_faulty(now, leaving.device), plan=False, as_json=as_json)
    _finish(array.uuid, as_json=as_json)


def _is_out(array: Array, device: str) -> bool:
    from blockpair.raid.model import Part

    member = array.member(device)
    return member is None or member.part is Part.FAULTY


def _member(array: Array, name: str, *parts: object) -> Member:
    device = kernel_name(name)
    member = array.member(device)
    if member is None or member.part not in parts:
        there = ", ".join(known.device for known in array.members if known.part in parts)
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"{name} is no {' or '.join(str(part) for part in parts)} member of {array.name}",
            f"those are: {there}" if there else f"blockpair raid status {array.name}",
        )
    return member


def _replacement(array: Array, spare: str | None, *, force: bool) -> tuple[str, Disk | None]:
    """The spare to take, and what it is if it is not in the array yet."""
    from blockpair.raid.health import best_spare
    from blockpair.raid.model import Part

    if spare is None:
        found = best_spare(array, {})
        if found is None:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{array.name} has no spare that is large enough",
                f"name a free disk with --with, or: blockpair raid spare add {array.name} DEVICE",
            )
        return found, None
    device = kernel_name(spare)
    present = array.member(device)
    if present is not None:
        return _member(array, spare, Part.SPARE).device, None
    (disk,) = look_at([spare])
    _admit_to(array, [disk], force=force)
    return disk.name, disk


@click.command("readd", short_help="Take a member back that was away.")
@array_argument
@click.argument("device", metavar="DEVICE")
@plan_option
@wait_option
@json_option
def readd(*, name: str, device: str, plan: bool, follow: bool, as_json: bool) -> None:
    """Take DEVICE back, which was a member and was pulled, lost its cable, or failed by mistake. By the
    write-intent bitmap only what changed meanwhile is copied. Refused (1) where it was none.

    \b
    Examples:
      blockpair raid readd data /dev/sdc --wait
    """
    from blockpair.raid import mdadm, steps
    from blockpair.raid.model import Part

    array = find(name)
    found = kernel_name(device)
    present = array.member(found)
    if present is not None and present.part is not Part.FAULTY:
        raise BlockpairError(
            ErrorKind.EXISTS,
            f"{found} is a member of {array.name} already ({present.part.value})",
            f"blockpair raid status {array.name}",
        )
    block = mdadm.examine(f"/dev/{found}")
    if block is None or block.uuid.lower() != array.uuid:
        raise BlockpairError(
            ErrorKind.MISMATCH,
            f"{device} was no member of {array.name}"
            + (f": it is of {block.name or block.uuid}" if block else ": it has no md superblock"),
            f"as a new spare: blockpair raid spare add {array.name} {device}",
        )
    if not perform(steps.re_add(array, found), plan=plan, as_json=as_json):
        return
    if follow:
        _follow(array.uuid, lambda now: _serves(now, found), as_json=as_json)
    _finish(array.uuid, as_json=as_json)


def _serves(array: Array, device: str) -> bool:
    from blockpair.raid.model import Part

    member = array.member(device)
    return member is not None and member.part is Part.ACTIVE


CHANGES = (create, grow, stop, delete, replace, readd)
