"""``blockpair connect``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("connect", short_help="Connect NAME to its peers.")
@name_argument
@click.option("--peer", metavar="NODE", help="Only this peer; otherwise every one.")
@json_option
@click.pass_obj
def command(directory: str | None, name: str, peer: str | None, as_json: bool) -> None:
    """Connect NAME to its peers, and again whenever the connection is lost.

    It returns at once; to wait for it: `blockpair wait NAME --until connected`.

    \b
    Examples:
      blockpair connect r0
      blockpair connect r0 --peer b
    """
    with daemon(directory) as client:
        report = client.call_raw("resource.connect", {"name": name, "peer": peer})
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name} connects to {peer or 'its peers'}")
