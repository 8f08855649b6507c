"""``blockpair down``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("down")
@name_argument
@json_option
@click.pass_obj
def command(directory: str | None, name: str, as_json: bool) -> None:
    """Stop the resource NAME; a Primary is demoted first.

    Refused (exit code 3) while its device is in use. It stays down until `blockpair up`.

    \b
    Examples:
      blockpair down r0
    """
    with daemon(directory) as client:
        report = client.call_raw("resource.down", {"name": name})
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name} is down")
