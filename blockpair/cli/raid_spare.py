"""``blockpair raid spare``: hot spares, of one array or of a group."""

from __future__ import annotations

import click

from blockpair.cli.output import json_option, print_json
from blockpair.cli.raid_run import (
    admit,
    array_argument,
    check_root,
    find,
    finish,
    force_option,
    kernel_name,
    look_at,
    members_of,
    perform,
    plan_option,
    yes_option,
)
from blockpair.errors import BlockpairError, ErrorKind


@click.group("spare", short_help="Hot spares, of one array or of a group.")
def spare() -> None:
    """Hot spares: disks that take over at once when a member fails. Those of a spare group serve all arrays
    of it (mdadm.conf's spare-group).

    \b
    Examples:
      blockpair raid spare add data /dev/sdf
      blockpair raid spare remove data /dev/sdc     # one that failed
    """


@spare.command("add", short_help="Give an array spares.")
@array_argument
@click.argument("devices", metavar="DEVICE…", nargs=-1, required=True)
@force_option
@plan_option
@yes_option
@json_option
def add(*, name: str, devices: tuple[str, ...], force: bool, plan: bool, yes: bool, as_json: bool) -> None:
    """Make each DEVICE a spare of ARRAY; where a member is missing, it takes over at once. Refused (3) for
    devices in use, with a signature (--force wipes it), or on a member's physical disk.

    \b
    Examples:
      blockpair raid spare add data /dev/sdf
      blockpair raid spare add data /dev/sdf /dev/sdg --plan
    """
    from blockpair.raid import steps
    from blockpair.raid.admission import refusals

    array = find(name)
    disks = look_at(devices)
    admit(
        refusals(
            disks, present=members_of(array), at_least=array.component_bytes, tolerance=None, force=force
        )
    )
    typed = array.name if any(disk.signatures for disk in disks) else None
    if perform(steps.add_spares(array, disks), plan=plan, as_json=as_json, yes=yes, typed=typed):
        finish(array.uuid, as_json=as_json)


@spare.command("remove", short_help="Take a spare, or a failed member, out.")
@array_argument
@click.argument("device", metavar="DEVICE")
@plan_option
@json_option
def remove(*, name: str, device: str, plan: bool, as_json: bool) -> None:
    """Take DEVICE, a spare or a member that failed, out of ARRAY. Refused (3) for a member that serves:
    replace it (`blockpair raid replace`).

    \b
    Examples:
      blockpair raid spare remove data /dev/sdf
    """
    from blockpair.raid import steps
    from blockpair.raid.model import Part

    array = find(name)
    found = kernel_name(device)
    member = array.member(found)
    if member is None:
        raise BlockpairError(
            ErrorKind.NOT_FOUND, f"{device} is not in {array.name}", f"blockpair raid status {array.name}"
        )
    if member.part not in (Part.SPARE, Part.FAULTY):
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{device} is no spare of {array.name}: it is {member.part.value}",
            f"to have another in its place: blockpair raid replace {array.name} {device}",
        )
    made = (
        steps.remove_spare(array, found) if member.part is Part.SPARE else steps.remove_faulty(array, found)
    )
    if perform(made, plan=plan, as_json=as_json):
        finish(array.uuid, as_json=as_json)


@spare.command("share", short_help="Have an array share its spares, or not.")
@array_argument
@click.option("--group", metavar="GROUP", help="The spare group; without it, of none.")
@plan_option
@json_option
def share(*, name: str, group: str | None, plan: bool, as_json: bool) -> None:
    """Make ARRAY one of a spare group, in mdadm.conf: its spares serve the group's other arrays, and theirs
    it.

    \b
    Examples:
      blockpair raid spare share data --group pool
      blockpair raid spare share data    # its spares serve it alone
    """
    from blockpair.config.names import check_name
    from blockpair.raid import steps

    array = find(name)
    try:
        checked = None if group is None else check_name(group)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, f"--group: {error}", "choose another name") from None
    if perform(steps.share(array, checked), plan=plan, as_json=as_json):
        finish(array.uuid, as_json=as_json)


@spare.command("assign", short_help="Move shared spares to where they are needed.")
@plan_option
@json_option
def assign(*, plan: bool, as_json: bool) -> None:
    """Decide which spare of each group goes to which array that lacks a member, and move it there. The array
    that survives least comes first; of the spares: the same class of speed, then faster, then slower; another
    enclosure than the copies that are left; the smallest that is large enough.

    \b
    Examples:
      blockpair raid spare assign --plan
    """
    from blockpair.raid import policy, steps
    from blockpair.raid.inventory import Inventory

    check_root()
    arrays = Inventory().arrays()
    decision = policy.decide(arrays.values())
    moves = [found for found in decision.assignments if found.moves]
    made = [
        step
        for found in moves
        for step in steps.move_spare(arrays[found.spare.array], arrays[found.need.array], found.spare.device)
    ]
    notes = [f"{found.need.name}: {found.reason}" for found in moves]
    notes += [f"{need.name}: no spare for its place {need.slot}: {why}" for need, why in decision.unmet]
    if plan:
        perform(made, plan=True, as_json=as_json, also=notes)
        return
    if not as_json:
        for note in notes or ["nothing to do"]:
            click.echo(note)
    perform(made, plan=False, as_json=as_json)
    if as_json:
        print_json({"done": [step.shown for step in made], "notes": notes})
