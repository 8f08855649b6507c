"""``blockpair witness``: the third machine, which says which of two nodes may go on."""

from __future__ import annotations

from typing import Any

import click

from blockpair.cli.output import check_can_ask, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import LOOK_SECONDS, Client, Program

_PROGRAM = Program(
    "witness",
    "blockpair witness serve",
    "blockpair-witness",
    "`journalctl -u blockpair-witness`",
)


def _witness(directory: str | None) -> Client:
    from blockpair.arbiter.witness.places import places

    return Client(places(directory).rpc_socket, _PROGRAM)


@click.group("witness", short_help="A third machine that says who may go on.")
def command() -> None:
    """The witness: a small program on any third machine, which says which of two nodes may go on when they
    have lost each other. It keeps a few words for each resource, never data, and serves any number of
    clusters. It is asked when a node is lost or comes back; while all is well it may be down.

    These commands are for its machine, which is no node of the cluster.

    \b
    From nothing to a witness:
      systemctl enable --now blockpair-witness          # on the third machine
      blockpair cluster token                           # on a node
      blockpair witness join 10.0.0.1:7789 bpj1-...     # on the third machine
      blockpair config edit --set arbiter.kind=witness \\
        --set arbiter.address=10.0.0.3:7790             # on a node
    """


@command.command("serve", short_help="Run the witness.")
@click.option(
    "--listen",
    default="0.0.0.0:7790",
    show_default=True,
    metavar="ADDRESS:PORT",
    envvar="BLOCKPAIR_WITNESS_LISTEN",
    show_envvar=True,
    help="Where nodes reach it.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    help="auto: text to a terminal, JSON to anything else.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="The least that is logged.",
)
@click.pass_obj
def serve(directory: str | None, listen: str, log_format: Any, log_level: Any) -> None:
    """Run the witness. It stays in the foreground and logs to standard error; the systemd unit
    blockpair-witness runs it so. One serves any number of clusters: see `blockpair witness join`.

    What it keeps is in /var/lib/blockpair-witness, or below BLOCKPAIR_DIR. It needs no backup: an old copy
    is worse than none, and what is lost the nodes write anew.

    \b
    Examples:
      blockpair witness serve
      blockpair witness serve --listen 10.0.0.9:7790
      BLOCKPAIR_DIR=/tmp/witness blockpair witness serve --listen 127.0.0.1:7790
    """
    import asyncio

    from blockpair.arbiter.witness.places import places
    from blockpair.arbiter.witness.serve import serve as run
    from blockpair.config.names import parse_address
    from blockpair.service import logs

    try:
        address = parse_address(listen, any_port=True)
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.USAGE, f"--listen: {error}", "write it as --listen 0.0.0.0:7790"
        ) from None
    logs.set_up(log_format, log_level)
    asyncio.run(run(places(directory), address))


@command.command("join", short_help="Serve another cluster.")
@click.argument("server", metavar="HOST:PORT")
@click.argument("token", metavar="TOKEN")
@json_option
@click.pass_obj
def join(directory: str | None, server: str, token: str, as_json: bool) -> None:
    """Have the witness on this machine serve the cluster whose member's control port is HOST:PORT, by the
    TOKEN that `blockpair cluster token` gave there; - reads it from the standard input.

    The witness becomes no member: it gets a certificate by which nodes know it, and may call nobody. When
    the cluster's authority is changed, nodes hand it the new one.

    Again for a cluster that it serves already: a new key and certificate, for instance after it missed too
    many changes of the authority.

    \b
    Examples:
      blockpair witness join 10.0.0.1:7789 bpj1-...
      blockpair witness join 10.0.0.1:7789 -
    """
    from blockpair.cli.cluster import secret

    text = secret() if token == "-" else token
    with _witness(directory) as client:
        answer = client.call("witness.join", {"server": server, "token": text}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo(f"this witness serves the cluster {answer['cluster']}")
    click.echo("Next, on a node, with an address of this machine:")
    click.echo()
    click.echo(
        "  blockpair config edit --set arbiter.kind=witness "
        f"--set arbiter.address=THIS-MACHINE:{answer['port']}"
    )


@command.command("status", short_help="Clusters, resources, who was heard when.")
@json_option
@click.pass_obj
def status(directory: str | None, as_json: bool) -> None:
    """What the witness on this machine knows: of each cluster its nodes and when they were heard last, and of
    each resource who may write and which nodes have every acknowledged write.

    Nodes look now and then whether it answers: one that was not heard for minutes is down, or cut off.

    \b
    Examples:
      blockpair witness status
      blockpair witness status --json | jq -r '.clusters[].resources[] | "\\(.name) \\(.primary)"'
    """
    with _witness(directory) as client:
        answer = client.call("witness.status", {}, dict[str, Any], patience=LOOK_SECONDS)
    if as_json:
        print_json(answer)
        return
    from blockpair.cli.witness_text import lines

    click.echo("\n".join(lines(answer)))


@command.command("forget", short_help="Remove a deleted resource.")
@click.argument("resource", metavar="RESOURCE")
@click.option("--cluster", default="", metavar="NAME", help="Of which cluster, where there are more.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def forget(directory: str | None, resource: str, cluster: str, yes: bool, as_json: bool) -> None:
    """Remove what the witness keeps of RESOURCE (its name, or its id), which was deleted on its nodes. That
    is only a matter of order: a new resource of the same name has another id.

    For a resource that still exists it stops failover by itself, until its nodes are connected and write the
    register anew.

    \b
    Examples:
      blockpair witness forget r0
      blockpair witness forget r0 --cluster east --yes
    """
    with _witness(directory) as client:
        params = {"resource": resource, "cluster": cluster}
        if not yes:
            # An unknown name, and one that may be another's, are told before anything is asked.
            found = client.call("witness.find", params, dict[str, Any])
            check_can_ask(f"forgetting {resource} must be confirmed", as_json=as_json)
            click.echo(
                f"{found['resource']} of {found['cluster']} would be forgotten: epoch {found['epoch']}, "
                f"Primary {found['primary']}. That is right for a resource that was deleted, and for no other"
            )
            typed = click.prompt(
                f"Type the resource's name to go on ({found['resource']})", default="", show_default=False
            )
            if typed != found["resource"]:
                raise BlockpairError(ErrorKind.FAILED, "that is another name: nothing was forgotten")
        answer = client.call("witness.forget", params, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['resource']} of {answer['cluster']} is forgotten")


@command.command("leave", short_help="Serve a cluster no more.")
@click.argument("cluster", metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def leave(directory: str | None, cluster: str, yes: bool, as_json: bool) -> None:
    """Serve CLUSTER (its name or id) no more: the key for it is deleted. What is kept of its resources stays,
    for when it joins again; `blockpair witness forget` removes it.

    \b
    Examples:
      blockpair witness leave east
      blockpair witness leave east --yes --json
    """
    from blockpair.cli.output import confirm

    confirm(
        f"the witness would serve {cluster} no more: its resources do not fail over by themselves then",
        yes=yes,
        as_json=as_json,
    )
    with _witness(directory) as client:
        answer = client.call("witness.leave", {"cluster": cluster}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo(f"the cluster {answer['cluster']} is served no more")
