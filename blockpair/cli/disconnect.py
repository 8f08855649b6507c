"""``blockpair disconnect``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("disconnect", short_help="Disconnect NAME from its peers until `connect`.")
@name_argument
@click.option("--peer", metavar="NODE", help="Only this peer; otherwise every one.")
@json_option
@click.pass_obj
def command(directory: str | None, name: str, peer: str | None, as_json: bool) -> None:
    """Disconnect NAME from its peers until `blockpair connect`; restarts do not change that.

    A Primary writes on alone and remembers which blocks the peers lack.

    \b
    Examples:
      blockpair disconnect r0
      blockpair disconnect r0 --peer b
    """
    with daemon(directory) as client:
        report = client.call_raw("resource.disconnect", {"name": name, "peer": peer})
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name} is disconnected from {peer or 'its peers'}")
