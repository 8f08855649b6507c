"""``blockpair demote``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("demote", short_help="Make this node Secondary for NAME.")
@name_argument
@json_option
@click.pass_obj
def command(directory: str | None, name: str, as_json: bool) -> None:
    """Make this node Secondary for NAME: its device goes away.

    Refused (exit code 3) while somebody uses the device; the message says who.

    \b
    Examples:
      blockpair demote r0
    """
    with daemon(directory) as client:
        report = client.call_raw("resource.demote", {"name": name})
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name} is Secondary on this node")
