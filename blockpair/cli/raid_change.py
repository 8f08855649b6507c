"""The commands of ``blockpair raid`` that change an array that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import json_option, print_json
from blockpair.cli.raid_run import (
    admit,
    array_argument,
    find,
    finish,
    follow_until,
    force_option,
    is_whole,
    kernel_name,
    look_at,
    members_of,
    perform,
    plan_option,
    resources,
    wait_option,
    yes_option,
)
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.raid.model import Array, Disk, Member


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
    replaced by larger ones, use all of them. What is on the array does not grow by itself; refused while a
    resource has its metadata at the array's end, where they would not be found any more.

    \b
    Examples:
      blockpair raid grow data --devices /dev/sdg,/dev/sdh --plan
      blockpair raid grow data --size-max
    """
    from blockpair.raid import steps
    from blockpair.raid.devices import lost_by_growth

    array = find(name)
    if bool(devices) == size_max:
        raise BlockpairError(
            ErrorKind.USAGE, "either --devices or --size-max is needed", "see blockpair raid grow --help"
        )
    _check_growable(array, size_max=size_max)
    if above := lost_by_growth(array.device, resources()):
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"the metadata of {', '.join(above)} are at the end of {array.name}: on a larger array "
            f"{'it does' if len(above) == 1 else 'they do'} not come up any more",
            "a resource does not grow by itself: it is made anew on the larger array, with its data, "
            "see docs/operations.md, A larger disk",
        )
    if size_max:
        made, disks = steps.grow_size(array), []
    else:
        disks = look_at(devices)
        _admit_to(array, disks, force=force)
        made = steps.grow(array, disks)
    typed = array.name if any(disk.signatures for disk in disks) else None
    if not perform(made, plan=plan, as_json=as_json, yes=yes, typed=typed):
        return
    if follow:
        follow_until(array.uuid, is_whole, as_json=as_json)
    finish(array.uuid, as_json=as_json)


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
    Refused (3) while it is in use, or a resource has it. Asks for the name unless --yes.

    \b
    Examples:
      blockpair raid delete data --plan
    """
    from blockpair.raid import steps

    array = find(name)
    _check_unused(array)
    _check_no_resource(array)
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


def _check_no_resource(array: Array) -> None:
    from pathlib import Path

    from blockpair.raid.devices import resources_on

    found = resources_on(Path(f"/dev/{array.device}"), resources())
    if found:
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{array.name} is the device of the resource {', '.join(found)}: its data is part of the replica",
            f"delete the resource first: blockpair delete {found[0]}",
        )


@click.command("replace", short_help="Copy a member onto a spare before it fails.")
@array_argument
@click.argument("member", metavar="MEMBER")
@click.option("--with", "spare", metavar="DEV", help="The spare; default: the best one that the array has.")
@force_option
@plan_option
@yes_option
@wait_option
@json_option
def replace(
    *,
    name: str,
    member: str,
    spare: str | None,
    force: bool,
    plan: bool,
    yes: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Copy MEMBER onto a spare while it still serves, so that redundancy is never less; then it counts as
    failed. With --wait it is taken out of the array at the end. A device given by --with that is no spare of
    ARRAY yet becomes one; all that is on it is lost, and that must be confirmed. Refused (1) while ARRAY
    lacks a member: a spare is needed there first.

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
    if array.failed_slots:
        raise BlockpairError(
            ErrorKind.BUSY,
            f"{array.name} lacks a member: a spare would go there first",
            f"blockpair raid status {array.name}",
        )
    chosen, added = _replacement(array, spare, force=force)
    made = steps.replace(array, leaving.device, chosen, added)
    agreed = yes or added is None
    typed = array.name if added is not None and added.signatures else None
    if not perform(made, plan=plan, as_json=as_json, yes=agreed, typed=typed):
        return
    if follow:
        follow_until(array.uuid, _copied(leaving.device, chosen), as_json=as_json)
        now = find(array.uuid)
        if now.member(leaving.device) is not None:
            perform(steps.remove_faulty(now, leaving.device), plan=False, as_json=as_json)
    finish(array.uuid, as_json=as_json)


def _copied(leaving: str, onto: str) -> Callable[[Array], bool]:
    """Whether the copy is complete, and the member out. Raises `BlockpairError` if the spare fails."""
    from blockpair.raid.model import Part

    def done(array: Array) -> bool:
        copy, old = array.member(onto), array.member(leaving)
        if copy is None or copy.part is Part.FAULTY:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{onto} failed while {leaving} was copied onto it; {leaving} still serves",
                f"choose another spare: blockpair raid replace {array.name} {leaving} --with DEVICE",
            )
        return old is None or old.part is Part.FAULTY

    return done


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
        follow_until(array.uuid, lambda now: _serves(now, found), as_json=as_json)
    finish(array.uuid, as_json=as_json)


def _serves(array: Array, device: str) -> bool:
    from blockpair.raid.model import Part

    member = array.member(device)
    return member is not None and member.part is Part.ACTIVE


CHANGES = (grow, stop, delete, replace, readd)
