"""``blockpair demote``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, kill_users_option, name_argument, print_json


@click.command("demote", short_help="Make this node Secondary for NAME.")
@name_argument
@kill_users_option
@json_option
@click.pass_obj
def command(directory: str | None, name: str, *, kill_users: bool, as_json: bool) -> None:
    """Make this node Secondary for NAME: its device goes away. A service that follows the data is taken down
    before: the addresses, the units, the mount.

    Refused (exit code 3) while somebody uses the device or the mount; the message says who, and the service
    is up as before.

    \b
    Examples:
      blockpair demote r0
      blockpair demote r0 --kill-users
    """
    with daemon(directory) as client:
        report = client.call_raw("resource.demote", {"name": name, "kill_users": kill_users})
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name} is Secondary on this node")
