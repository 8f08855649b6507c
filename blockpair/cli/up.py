"""``blockpair up``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("up", short_help="Start NAME: open its device, connect to its peers.")
@name_argument
@json_option
@click.pass_obj
def command(directory: str | None, name: str, as_json: bool) -> None:
    """Start the resource NAME: open its device, connect to its peers.

    It is Secondary then, or Primary again if it was when its daemon ended. It comes up with the daemon from
    now on, until `blockpair down`.

    \b
    Examples:
      blockpair up r0
    """
    with daemon(directory) as client:
        report = client.call_raw("resource.up", {"name": name})
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name} is up")
