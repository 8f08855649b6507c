"""``blockpair cluster``: which nodes trust each other."""

from __future__ import annotations

import sys
from typing import Any

import click

from blockpair.cli.output import confirm, daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

address_option = click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="HOST",
    help="Where the other nodes reach this one, without a port; more than one for more than one network, the "
    "preferred one first. Default: what the node listens on, or its only address.",
)


@click.group("cluster", short_help="Which nodes trust each other.")
def command() -> None:
    """Which nodes trust each other: a cluster has an authority of its own, which gives every member a
    certificate. Replication and calls between the nodes are encrypted, and for members alone.

    \b
    Examples:
      blockpair cluster init east --address 10.0.0.1        # on the first node
      blockpair cluster token                               # there: what to type on the other
      blockpair cluster join 10.0.0.1:7789 bpj1-... --address 10.0.0.2
      blockpair cluster status
    """


@command.command("init", short_help="Make a cluster of this node.")
@click.argument("name", metavar="NAME")
@address_option
@json_option
@click.pass_obj
def init(directory: str | None, name: str, addresses: tuple[str, ...], as_json: bool) -> None:
    """Make the cluster NAME, with this node as its first member: its authority, this node's certificate, and
    the configuration that all members will share.

    \b
    Examples:
      blockpair cluster init east
      blockpair cluster init east --address 10.0.0.1 --address 10.1.0.1
    """
    with daemon(directory) as client:
        answer = client.call("cluster.init", {"name": name, "addresses": list(addresses)}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo(f"the cluster {name} has the member {answer['node']}")
    click.echo(f"  authority  SHA-256 {answer['authority_sha256']}")
    click.echo("Next: `blockpair cluster token` here prints the command that another node joins with")


@command.command("token", short_help="A command by which one node can join.")
@click.option("--ttl", default="15m", show_default=True, metavar="TIME", help="How long it can be used.")
@json_option
@click.pass_obj
def token(directory: str | None, ttl: str, as_json: bool) -> None:
    """Print a command that makes one node a member, once, within the time of --ttl. It holds a secret and the
    fingerprint of the cluster's authority, by which the two nodes prove themselves to each other.

    Whoever has it can join, and a member can read all data: hand it over as you would a password. A witness
    joins by such a token too, and becomes no member: `blockpair witness join --help`.

    \b
    Examples:
      blockpair cluster token
      blockpair cluster token --ttl 1h --json
      blockpair cluster token --json | jq -r .text | ssh beta blockpair cluster join 10.0.0.1:7789 -
    """
    from blockpair.cli.wait import seconds

    with daemon(directory) as client:
        answer = client.call("cluster.token", {"ttl_seconds": seconds(ttl, "--ttl")}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo(f"On the node that shall join, until {answer['expires']}, once:")
    click.echo()
    click.echo(f"  blockpair cluster join {answer['address']} {answer['text']}")
    click.echo()
    click.echo("With - in place of the last word it is asked for, and no list of processes shows it.")


@command.command("join", short_help="Make this node a member.")
@click.argument("server", metavar="HOST:PORT")
@click.argument("token", metavar="TOKEN")
@address_option
@json_option
@click.pass_obj
def join(directory: str | None, server: str, token: str, addresses: tuple[str, ...], as_json: bool) -> None:
    """Make this node a member of the cluster whose member's control port is HOST:PORT, by the TOKEN that
    `blockpair cluster token` gave there; - reads it from the standard input.

    The member must prove that it is of the token's cluster before it is told anything. If that or anything
    else fails, nothing is changed on either node, but that the token may be used up.

    In the place of a lost node, it names the resources that have a copy here, and what each one needs.

    \b
    Examples:
      blockpair cluster join 10.0.0.1:7789 bpj1-...
      blockpair cluster join 10.0.0.1:7789 - --address 10.0.0.2 --address 10.1.0.2
    """
    text = secret() if token == "-" else token
    with daemon(directory) as client:
        answer = client.call(
            "cluster.join",
            {"server": server, "token": text, "addresses": list(addresses)},
            dict[str, Any],
        )
    if as_json:
        print_json(answer)
        return
    status = answer["status"]
    click.echo(
        f"{status['node']} is a member of the cluster {status['cluster']}, by way of {answer['by_way_of']}"
    )
    if not answer["copies"]:
        click.echo("Next: `blockpair cluster status`; then make a resource: `blockpair create --help`")
        return
    from blockpair.cli.cluster_text import copy_lines

    click.echo("\n".join(copy_lines(answer["copies"])))


@command.command("status", short_help="The members, and what needs attention.")
@json_option
@click.pass_obj
def status(directory: str | None, as_json: bool) -> int:
    """The members, whether they can be reached and how long a call takes, certificates, and what needs
    attention: exit code 4 if something does.

    \b
    Examples:
      blockpair cluster status
      blockpair cluster status --json | jq '.members[] | select(.reachable | not)'
    """
    with daemon(directory) as client:
        answer = client.call("cluster.status", {}, dict[str, Any])
    if as_json:
        print_json(answer)
    else:
        from blockpair.cli.cluster_text import lines

        click.echo("\n".join(lines(answer)))
    return int(ExitCode.FINE if answer["healthy"] else ExitCode.DEGRADED)


@command.command("remove", short_help="Take a node out of the cluster.")
@click.argument("node", metavar="NODE")
@click.option("--lost", is_flag=True, help="NODE is gone for good; its place is kept for a successor.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def remove(directory: str | None, node: str, lost: bool, yes: bool, as_json: bool) -> None:
    """Take NODE out of the cluster. The cluster gets a new authority, and the remaining members, all of which
    must answer, new certificates: what NODE has is worth nothing afterwards. Refused while a resource has a
    copy on NODE.

    With --lost, NODE may have copies, and must not answer. It is no member any more, nobody speaks to it, and
    the resources go on without it. Another machine, or the same one, joins by its name and takes its place,
    addresses included; there, `blockpair create RES --anew` begins a fresh copy, and `blockpair up RES` syncs
    it.

    On NODE itself: forget the cluster there; with --lost, though it has copies, once the others have let go
    of it.

    \b
    Examples:
      blockpair cluster remove beta
      blockpair cluster remove beta --lost
      blockpair cluster remove beta --yes --json
    """
    confirm(
        f"{node} would be taken out of the cluster: it can come back with a new token only",
        yes=yes,
        as_json=as_json,
    )
    _tell(directory, "cluster.remove", {"node": node, "lost": lost}, as_json=as_json)


@command.command("rotate", short_help="New certificates, or a new authority.")
@click.option("--ca", is_flag=True, help="A new authority and new certificates for all members.")
@json_option
@click.pass_obj
def rotate(directory: str | None, ca: bool, as_json: bool) -> None:
    """Give this node a new key and certificate. The daemon does that by itself after two thirds of a
    certificate's life.

    With --ca, the whole cluster gets a new authority, and every member a new certificate; all of them must
    answer, or nothing is changed. Nothing is interrupted.

    \b
    Examples:
      blockpair cluster rotate
      blockpair cluster rotate --ca
    """
    _tell(directory, "cluster.rotate", {"ca": ca}, as_json=as_json)


def _tell(directory: str | None, method: str, params: dict[str, Any], *, as_json: bool) -> None:
    with daemon(directory) as client:
        answer = client.call(method, params, dict[str, Any])
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(answer["done"]))


def secret() -> str:
    """A token from the standard input, or the terminal. Raises `BlockpairError`."""
    if sys.stdin.isatty():
        return str(click.prompt("token", hide_input=True))
    line = sys.stdin.readline(1024).strip()
    if not line:
        raise BlockpairError(
            ErrorKind.USAGE, "there is no token on the standard input", "write it there, in one line"
        )
    return line
