"""``blockpair delete``."""

from __future__ import annotations

import click

from blockpair.cli.output import check_can_ask, daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind


@click.command("delete", short_help="Forget NAME on both nodes of it; the data stays.")
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for the name.")
@json_option
@click.pass_obj
def command(directory: str | None, name: str, yes: bool, as_json: bool) -> None:
    """Forget the resource NAME, with its metadata; the data on the devices stays. In a cluster that is done
    on both nodes, or on neither; else on this node.

    Without its metadata, a node does not know any more how its copy relates to the peer's. Refused (exit code
    3) while the resource is up, on either node.

    \b
    Examples:
      blockpair down r0 && blockpair delete r0    # after `down` on the other node too
      blockpair delete r0 --yes
    """
    with daemon(directory) as client:
        # An unknown name is told before anything is asked.
        client.call_raw("resource.status", {"name": name})
        if not yes:
            check_can_ask(f"deleting {name} must be confirmed", as_json=as_json)
            typed = click.prompt(
                f"Type the resource's name to delete it ({name})", default="", show_default=False
            )
            if typed != name:
                raise BlockpairError(ErrorKind.FAILED, "that is another name: nothing was deleted")
        raw = client.call_raw("resource.delete", {"name": name})
    if as_json:
        print_json(raw)
        return
    import msgspec

    for line in msgspec.json.decode(raw)["done"]:
        click.echo(line)
