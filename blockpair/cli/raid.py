"""``blockpair raid``: the arrays under the replicas. It works on this node's md itself, not by the daemon."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import json_option, print_json
from blockpair.cli.raid_change import CHANGES
from blockpair.cli.raid_create import create
from blockpair.cli.raid_run import array_argument, check_root, find, node_rules, places
from blockpair.cli.raid_spare import spare
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

if TYPE_CHECKING:
    from blockpair.raid.health import Health
    from blockpair.raid.model import Array


@click.group("raid", short_help="The RAID arrays of this node, and their spares.")
def command() -> None:
    """The RAID arrays of this node (Linux md) and their spares: make them, watch them, heal them. Arrays that
    were made otherwise are shown and cared for as well. Needs root; the daemon is not asked.

    \b
    Examples:
      blockpair raid create data --devices /dev/sdb,/dev/sdc,/dev/sdd,/dev/sde --plan
      blockpair raid status
      blockpair raid spare add data /dev/sdf
    """


for _change in (create, *CHANGES, spare):
    command.add_command(_change)


@command.command("list", short_help="All arrays, a line each.")
@json_option
def list_(as_json: bool) -> int:
    """All arrays of this node: level, size, members, spares, what goes on. Ends with 4 if one needs
    attention.

    \b
    Examples:
      blockpair raid list
      blockpair raid list --json
    """
    from blockpair.cli.raid_text import list_lines, status_json
    from blockpair.raid.inventory import Inventory
    from blockpair.raid.outlook import healthy

    check_root()
    arrays = sorted(Inventory().arrays().values(), key=lambda array: array.name)
    if as_json:
        print_json({"arrays": [status_json(array) for array in arrays]})
    elif arrays:
        click.echo("\n".join(list_lines(arrays)))
    else:
        click.echo("There is no array on this node. To make one: `blockpair raid create --help`")
    return int(ExitCode.FINE if all(map(healthy, arrays)) else ExitCode.DEGRADED)


@command.command("status", short_help="One array or all in full: members, outlook, what to do.")
@click.argument("name", metavar="[ARRAY]", required=False)
@click.option(
    "--health",
    "with_health",
    is_flag=True,
    help="Ask the members for their own account (smartctl), and give each a score.",
)
@json_option
def status(name: str | None, with_health: bool, as_json: bool) -> int:
    """Members and what each is for, what is synced and how long it takes, which failures the array survives,
    and what to do. ARRAY: a name, /dev/md/NAME, md127 or a UUID. Ends with 4 if something needs attention.

    --health: a score from 100 to 0 with its reasons; at 40 or below, or what `replace_at` in [raid] of
    blockpair.toml says, a member should be replaced before it fails. Disks that sleep are not woken.

    \b
    Examples:
      blockpair raid status
      blockpair raid status data --health
      blockpair raid status data --json | jq '.arrays[0].survival'
    """
    from blockpair.cli.raid_text import status_json, status_lines
    from blockpair.raid.inventory import Inventory
    from blockpair.raid.outlook import healthy

    check_root()
    arrays = [find(name)] if name is not None else list(Inventory().arrays().values())
    arrays.sort(key=lambda array: array.name)
    health = _health(arrays) if with_health else None
    if as_json:
        print_json({"arrays": [status_json(array, health) for array in arrays]})
    elif arrays:
        click.echo("\n\n".join("\n".join(status_lines(array, health)) for array in arrays))
    else:
        click.echo("There is no array on this node. To make one: `blockpair raid create --help`")
    ill = any(found.replace for found in (health or {}).values())
    return int(ExitCode.DEGRADED if ill or not all(map(healthy, arrays)) else ExitCode.FINE)


def _health(arrays: list[Array]) -> dict[str, Health]:
    from blockpair.raid import smartctl, sysfs
    from blockpair.raid.health import score

    replace_at = node_rules().replace_at
    return {
        member.device: score(told, replace_at=replace_at)
        for array in arrays
        for member in array.members
        if (told := smartctl.read(sysfs.whole_disk(member.device))) is not None
    }


@command.command("watch", short_help="Tell each change as it happens, with its consequence.")
@click.option(
    "--heal",
    is_flag=True,
    help="Also act, as the daemon does where it runs: spares of a group go where they are needed, members "
    "that come back are re-added, an array that waits for its first write rebuilds, a member likely to fail "
    "is replaced, syncs give way to applications, scrubs begin when they are due.",
)
@json_option
def watch(heal: bool, as_json: bool) -> None:
    """Tell of every change of every array until interrupted: what happened, what it means, what is done. With
    --json an event a line.

    \b
    Examples:
      blockpair raid watch
      blockpair raid watch --heal --json
    """
    from blockpair.raid.turn import Turn
    from blockpair.raid.watch import Watch

    check_root()
    with Turn() as turn:
        if heal and not turn.take():
            raise BlockpairError(
                ErrorKind.BUSY,
                "another program heals the arrays of this node: blockpaird, or a second `raid watch --heal`",
                "watch without --heal; what the daemon does is in `blockpair events --kind 'raid.*'`",
            )
        kept = places()
        watching = Watch(
            replace(node_rules(), heal=heal),
            resources=kept.resources,
            speeds=kept.array_speeds,
            scrubs=kept.array_scrubs,
        )
        try:
            with closing(watching.events()) as events:
                for event in events:
                    if as_json:
                        import msgspec

                        click.echo(msgspec.json.encode(event))
                    else:
                        click.echo(f"{event.severity.value:<8}  {event.text}")
        except KeyboardInterrupt:
            return


@command.group("scrub", short_help="Read and compare all copies.")
def scrub() -> None:
    """Read all copies of an array and compare them, while it is in use.

    \b
    Examples:
      blockpair raid scrub start data --wait
      blockpair raid scrub status data
    """


@scrub.command("start", short_help="Begin one.")
@array_argument
@click.option("--wait", "follow", is_flag=True, help="Follow it to its end.")
@click.option("--plan", is_flag=True, help="Only show the commands and their consequences; do nothing.")
@json_option
def scrub_start(name: str, follow: bool, plan: bool, as_json: bool) -> int:
    """Begin to read all copies and compare them. What cannot be read is written anew from another copy; where
    copies differ nothing is changed, for md cannot tell which is right, and writes under way count too.

    \b
    Examples:
      blockpair raid scrub start data --wait
    """
    return _scrub(name, start=True, follow=follow, plan=plan, as_json=as_json)


@scrub.command("stop", short_help="End it.")
@array_argument
@click.option("--plan", is_flag=True, help="Only show the commands and their consequences; do nothing.")
@json_option
def scrub_stop(name: str, plan: bool, as_json: bool) -> int:
    """End a scrub where it is.

    \b
    Examples:
      blockpair raid scrub stop data
    """
    return _scrub(name, start=False, follow=False, plan=plan, as_json=as_json)


@scrub.command("status", short_help="How far it is, what the last one found.")
@array_argument
@json_option
def scrub_status(name: str, as_json: bool) -> int:
    """How far a scrub is, and how much it, or the last one, found to differ. Ends with 4 if it found
    anything.

    \b
    Examples:
      blockpair raid scrub status data
    """
    return _scrub_told(find(name), as_json=as_json)


def _scrub(name: str, *, start: bool, follow: bool, plan: bool, as_json: bool) -> int:
    from blockpair.cli.raid_run import perform
    from blockpair.raid.steps import scrub as steps

    array = find(name)
    if start and array.sync is not None:
        raise BlockpairError(
            ErrorKind.BUSY,
            f"{array.name} is busy: {array.sync.action}",
            f"wait for its end: blockpair raid status {array.name}",
        )
    if not start and (array.sync is None or array.sync.action not in ("check", "repair")):
        raise BlockpairError(
            ErrorKind.FAILED, f"no scrub of {array.name} runs", f"blockpair raid scrub start {array.name}"
        )
    if not perform(steps(array, start=start), plan=plan, as_json=as_json):
        return int(ExitCode.FINE)
    if follow:
        from blockpair.cli.raid_progress import follow as until

        until(array.uuid, lambda now: now.sync is None, quiet=as_json)
    return _scrub_told(find(array.uuid), as_json=as_json)


def _scrub_told(array: Array, *, as_json: bool) -> int:
    from blockpair.cli.raid_text import status_json, sync_words
    from blockpair.raid.memory import Memory
    from blockpair.raid.standing import read, standing_of
    from blockpair.units import format_size

    running = array.sync is not None and array.sync.action in ("check", "repair")
    standing = standing_of(array, read(Memory(places().array_votes).all())) if array.mismatch_bytes else None
    if as_json:
        print_json(status_json(array))
    else:
        found = f"{format_size(array.mismatch_bytes)} may differ" if array.mismatch_bytes else "no difference"
        what = f"{sync_words(array.sync)}; so far" if running and array.sync else "by the last scrub"
        since = "" if standing is None or running else f"; since then: {standing.words}"
        click.echo(f"{array.name}: {what} {found} between copies{since}")
    differs = array.mismatch_bytes and not (standing is not None and standing.settled and not running)
    return int(ExitCode.DEGRADED if differs else ExitCode.FINE)
