"""``blockpair raid create``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockpair.cli.output import json_option
from blockpair.cli.raid_run import (
    admit,
    check_root,
    finish,
    follow_until,
    force_option,
    is_whole,
    look_at,
    perform,
    plan_option,
    wait_option,
    yes_option,
)
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.raid.layout import Geometry
    from blockpair.raid.model import Disk

_LEVELS = ("1", "5", "6", "10")
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
    smallest = min(disk.size_bytes for disk in disks)
    admit(refusals([*disks, *extra], tolerance=None if unequal else SIZE_TOLERANCE, force=force))
    # Also with --unequal: a spare that is smaller than every member could serve none.
    admit(refusals(extra, at_least=smallest, tolerance=None, force=force))
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
        follow_until(uuid, is_whole, as_json=as_json)
    finish(uuid, as_json=as_json, next_=steps.INITRAMFS)


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
