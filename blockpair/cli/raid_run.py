"""What the commands of ``blockpair raid`` have in common: devices from the command line, showing steps before
they are done, doing them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from blockpair.cli.output import check_can_ask, confirm, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.config.locations import Locations
    from blockpair.raid.admission import Refusal
    from blockpair.raid.model import Array, Disk
    from blockpair.raid.rules import Rules
    from blockpair.raid.steps import Step

_F = TypeVar("_F", bound=Callable[..., Any])

plan_option = click.option(
    "--plan", is_flag=True, help="Only show the commands and their consequences; do nothing."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
force_option = click.option(
    "--force", is_flag=True, help="RISK: take devices that carry data too; it is wiped. Never one in use."
)
wait_option = click.option("--wait", "follow", is_flag=True, help="Follow it to its end.")
array_argument = click.argument("name", metavar="ARRAY")


def check_root() -> None:
    """Raises `BlockpairError` unless this is root: md and its disks are root's."""
    if os.geteuid() != 0:
        raise BlockpairError(ErrorKind.NOT_PERMITTED, "arrays and disks are for root alone", "use sudo")


def find(name: str) -> Array:
    """The array that a person named. Raises `BlockpairError`."""
    from blockpair.raid.inventory import Inventory

    check_root()
    return Inventory().find(name)


def paths(words: Sequence[str]) -> list[str]:
    """The paths of an option that is given more than once, or with commas; the kernel's names (sdb) too."""
    given = [path for word in words for path in word.split(",") if path]
    return [path if "/" in path else f"/dev/{path}" for path in given]


def look_at(words: Sequence[str]) -> list[Disk]:
    """The devices that a person named, looked at. Raises `BlockpairError`."""
    from blockpair.raid.devices import look

    return [look(path, resources()) for path in paths(words)]


def places() -> Locations:
    """Where this node's files are."""
    from blockpair.config.locations import locations

    return locations(directory=click.get_current_context().find_root().obj)


def resources() -> Path:
    """Where its resource files are."""
    return places().resources


def node_rules() -> Rules:
    """By what rules this node cares for its arrays. Raises `BlockpairError`."""
    from blockpair.config.node import read_node

    return read_node(places().node_file).raid.rules


def kernel_name(device: str) -> str:
    """The kernel's name of a device that may have gone from /dev."""
    from blockpair.raid.devices import sysfs_folder

    path = Path(device if device.startswith("/") else f"/dev/{device}")
    return sysfs_folder(path).name if path.exists() else path.name


def admit(found: Sequence[Refusal]) -> None:
    """Raises `BlockpairError` with all refusals, if there are any."""
    if not found:
        return
    worst = next((refusal for refusal in found if refusal.kind is not ErrorKind.INVALID), found[0])
    raise BlockpairError(
        worst.kind,
        "\n  ".join(f"{refusal.device} is refused: {refusal.reason}" for refusal in found),
        "\n".join(dict.fromkeys(refusal.remedy for refusal in found)),
    )


def members_of(array: Array) -> list[Disk]:
    """The array's members, to compare new ones with."""
    from blockpair.raid.devices import member_disk

    return [disk for member in array.members if (disk := member_disk(member.device)) is not None]


def perform(
    steps: Sequence[Step],
    *,
    plan: bool,
    as_json: bool,
    yes: bool = True,
    typed: str | None = None,
    also: Sequence[str] = (),
) -> bool:
    """Show the steps and, without ``plan``, do them; whether they were done. Unless ``yes``, a person must
    agree, or type the name ``typed``. ``also``: what else is to know before. Raises `BlockpairError`.
    """
    from blockpair.raid.apply import carry_out

    if plan:
        _show_plan(steps, also, as_json=as_json)
        return False
    if not yes:
        _ask(steps, typed, also, as_json=as_json)
    carry_out(steps, lambda step: None if as_json else click.echo(f"done: {step.shown}"))
    return True


def _show_plan(steps: Sequence[Step], also: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        told = [{"command": step.shown, "consequence": step.consequence} for step in steps]
        print_json({"plan": told, "notes": list(also)})
        return
    for line in [*also, *_lines(steps), "Nothing was done."]:
        click.echo(line)


def _lines(steps: Sequence[Step]) -> list[str]:
    return [line for step in steps for line in (step.shown, f"  -> {step.consequence}")]


def _ask(steps: Sequence[Step], typed: str | None, also: Sequence[str], *, as_json: bool) -> None:
    what = "\n".join([*also, *_lines(steps)])
    if typed is None:
        confirm(what, yes=False, as_json=as_json)
        return
    check_can_ask(f"this must be confirmed: {'; '.join(step.consequence for step in steps)}", as_json=as_json)
    click.echo(what)
    if click.prompt(f"Type the array's name to go on ({typed})", default="", show_default=False) != typed:
        raise BlockpairError(ErrorKind.FAILED, "that is another name: nothing was changed")


def finish(uuid: str, *, as_json: bool, next_: str = "") -> None:
    """Show what came of it."""
    from blockpair.cli.raid_text import status_json, status_lines

    array = find(uuid)
    if as_json:
        print_json({"array": status_json(array), "next": next_ or None})
        return
    click.echo("\n".join(status_lines(array)))
    if next_:
        click.echo(f"Next, so that it is known early at boot: `{next_}`")


def is_whole(array: Array) -> bool:
    """Whether all places are filled, all copies are equal, and nothing is under way."""
    return array.sync is None and not array.unequal and not array.failed_slots


def follow_until(uuid: str, done: Callable[[Array], bool], *, as_json: bool) -> Array:
    """Show what the array does until ``done``. Raises `BlockpairError` if it fails meanwhile."""
    from blockpair.cli.raid_progress import follow

    return follow(uuid, done, quiet=as_json)
