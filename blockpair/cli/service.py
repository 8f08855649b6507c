"""``blockpair service``: what follows the data of a resource to its Primary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.cli.version_text import tell_version
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.config.service import ServiceTable
    from blockpair.rpc.client import Client

_FILE = Path("cluster.toml")
_TIMEOUTS = ("mount", "unmount", "fsck", "start", "stop", "hook")


@click.group("service", short_help="What follows the data: mount, units, addresses.")
def command() -> None:
    """What follows the data of a resource to the node that is Primary: a mount, systemd units, virtual
    addresses, hooks. It is part of the cluster's configuration. `blockpair promote`, `demote` and
    `switchover` carry it out, and so does whoever becomes Primary by itself; `blockpair plan NAME promote`
    shows the steps.

    \b
    Examples:
      blockpair service set r0 --mount /srv --unit postgresql.service --vip 192.0.2.10/24@eth0
      blockpair plan r0 promote
      blockpair promote r0
    """


@command.command("set", short_help="Say what follows the data of NAME.")
@name_argument
@click.option("--mount", metavar="PATH", help='Where the device is mounted; "" for nowhere.')
@click.option("--file-system", type=click.Choice(["ext4", "xfs"]), help="What is on the device.")
@click.option("--option", "options", multiple=True, metavar="OPTION", help="A mount option.")
@click.option("--unit", "units", multiple=True, metavar="UNIT", help="A systemd unit, with its suffix.")
@click.option("--vip", "vips", multiple=True, metavar="ADDRESS/BITS@INTERFACE", help="A virtual address.")
@click.option("--promoted", metavar="PROGRAM", help='A hook, run last on the way up; "" for none.')
@click.option("--demoting", metavar="PROGRAM", help='A hook, run before the units stop; "" for none.')
@click.option(
    "--timeout",
    "timeouts",
    multiple=True,
    metavar="STEP=TIME",
    help=f"How long a step may take; STEP is one of {', '.join(_TIMEOUTS)}.",
)
@json_option
@click.pass_obj
def set_(directory: str | None, /, name: str, as_json: bool, **given: Any) -> int:
    """Say what follows the data of NAME. What is not named stays as it is; an option that may be given
    several times replaces the whole list, and units start in the order in which they are given.

    What is up goes on as it was brought up: a change is taken up by the next switchover or promotion. On a
    node that is Primary already, a first definition is brought up by `blockpair promote NAME`. Whether both
    nodes have what it wants (directory, units, interfaces, hooks) is told by `blockpair doctor`.

    Ends with 4 if the change is made, and some node does not have it yet.

    \b
    Examples:
      blockpair service set r0 --mount /srv --unit postgresql.service --vip 192.0.2.10/24@eth0
      blockpair service set r0 --option noatime --timeout start=2m
      blockpair service set r0 --vip 192.0.2.10/24@bond0 --vip 2001:db8::10/64@bond0
    """
    settings = _settings(name, given)
    if not settings:
        raise BlockpairError(
            ErrorKind.USAGE, "nothing is given to be set", "see the options: blockpair service set --help"
        )
    with daemon(directory) as client:
        table_of(client, name)
        answer = client.call(
            "config.edit", {"settings": settings, "why": f"service of {name}"}, dict[str, Any]
        )
    code = tell_version(answer, unchanged="it is so already", as_json=as_json)
    if answer["changed"] and not as_json:
        click.echo("Next: whether what it wants is there, on both nodes: blockpair doctor")
    return code


@command.command("show", short_help="Show what follows the data of NAME.")
@name_argument
@json_option
@click.pass_obj
def show(directory: str | None, name: str, as_json: bool) -> None:
    """Show what follows the data of NAME, with the time-outs.

    \b
    Examples:
      blockpair service show r0
      blockpair service show r0 --json | jq -r '.vips[]'
    """
    import msgspec

    with daemon(directory) as client:
        table = table_of(client, name)
    if as_json:
        print_json(table)
        return
    found = msgspec.to_builtins(table)
    if found["mount"]:
        options = f" ({','.join(found['options'])})" if found["options"] else ""
        click.echo(f"mount      {found['mount']}, {found['file_system']}{options}")
    for title, values in (("unit", found["units"]), ("address", found["vips"])):
        for value in values:
            click.echo(f"{title:<10} {value}")
    for moment, program in found["hooks"].items():
        if program:
            click.echo(f"hook       {program} {moment} {name}")
    if not (found["mount"] or found["units"] or found["vips"] or any(found["hooks"].values())):
        click.echo(f"nothing follows the data of {name}")
        return
    click.echo("time-outs  " + ", ".join(f"{step} {time}" for step, time in found["timeouts"].items()))


@command.command("clear", short_help="Let nothing follow the data of NAME.")
@name_argument
@json_option
@click.pass_obj
def clear(directory: str | None, name: str, as_json: bool) -> int:
    """Let nothing follow the data of NAME any more. What is up stays up until it is demoted or moved.

    Ends with 4 if the change is made, and some node does not have it yet.

    \b
    Examples:
      blockpair service clear r0
    """
    with daemon(directory) as client:
        table_of(client, name)
        params = {"settings": [f"{_key(name)}={{}}"], "why": f"no service of {name}"}
        answer = client.call("config.edit", params, dict[str, Any])
    return tell_version(answer, unchanged="it is so already", as_json=as_json)


def table_of(client: Client, name: str) -> ServiceTable:
    """What follows the data of a resource, as the cluster's configuration says. Raises `BlockpairError`."""
    from blockpair.config.cluster import parse_cluster

    shown = client.call("config.show", {}, dict[str, Any])
    resources = parse_cluster(shown["text"], _FILE).resource
    if name not in resources:
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"the cluster has no resource {name!r}",
            f"its resources are: {', '.join(resources)}"
            if resources
            else "make one: `blockpair create --help`",
        )
    return resources[name].service


def _settings(name: str, given: dict[str, Any]) -> list[str]:
    """``KEY=VALUE`` for each value that is given."""
    keys = {
        "mount": given["mount"],
        "file_system": given["file_system"],
        "options": list(given["options"]) or None,
        "units": list(given["units"]) or None,
        "vips": list(given["vips"]) or None,
        "hooks.promoted": given["promoted"],
        "hooks.demoting": given["demoting"],
    }
    for text in given["timeouts"]:
        step, separator, time = text.partition("=")
        if not separator or step not in _TIMEOUTS:
            raise BlockpairError(
                ErrorKind.USAGE,
                f"--timeout: {text!r} is not STEP=TIME",
                f"write it as start=2m; the steps are {', '.join(_TIMEOUTS)}",
            )
        keys[f"timeouts.{step}"] = time
    # What JSON writes of a string or a list of strings, TOML reads.
    return [f"{_key(name)}.{key}={json.dumps(value)}" for key, value in keys.items() if value is not None]


def _key(name: str) -> str:
    return f'resource."{name}".service'
