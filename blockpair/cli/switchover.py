"""``blockpair switchover``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, kill_users_option, name_argument, print_json


@click.command("switchover", short_help="Move NAME, with its service, to the other node.")
@name_argument
@click.option("--to", metavar="NODE", help="The node that is to be Primary; by default the one that is not.")
@kill_users_option
@json_option
@click.pass_obj
def command(directory: str | None, name: str, *, to: str | None, kill_users: bool, as_json: bool) -> None:
    """Move NAME from the Primary to its peer, with the service that follows the data; on either node. The
    peer must be connected and in sync, and makes ready first; then the service is taken down, the role handed
    over, and the service brought up there. Says how long it was stopped.

    Ends with 0 when it has moved; with 3 if it stays where it is because the peer is not in sync, or somebody
    holds the mount; with 1 if a step failed. Until the role is handed over, and if the peer cannot start the
    service, it is brought back where it was; the message says where it is.

    \b
    Examples:
      blockpair switchover r0
      blockpair switchover r0 --to beta --kill-users
      blockpair switchover r0 --json | jq .stopped_seconds
    """
    params = {"name": name, "to": to, "kill_users": kill_users}
    with daemon(directory) as client:
        raw = client.call_raw("resource.switchover", params)
    if as_json:
        print_json(raw)
        return
    import msgspec

    moved = msgspec.json.decode(raw)
    what = f"{name} and its service are" if moved["service"] else f"{name} is"
    click.echo(f"{what} on {moved['to_node']} now; stopped for {moved['stopped_seconds']:.3f} s")
    for step in moved["steps"]:
        click.echo(f"  {step['node']:<12} {step['seconds']:7.3f} s  {step['what']}")
