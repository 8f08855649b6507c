"""``blockpair create``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import click

from blockpair.cli.output import confirm, daemon, json_option, name_argument, print_json
from blockpair.config.names import check_name, parse_address
from blockpair.config.resource import MAX_PRIORITY, OnIoError, SplitBrainPolicy, Tls
from blockpair.errors import BlockpairError, ErrorKind, ExitCode


def parse_peer(text: str) -> tuple[str, str]:
    """Name and address of ``NAME=HOST:PORT``. Raises `ValueError`."""
    name, separator, address = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not NAME=HOST:PORT, such as b=10.0.0.2:7788")
    return check_name(name), str(parse_address(address))


def parse_on(texts: tuple[str, ...]) -> dict[str, str]:
    """Devices by node of ``NODE=DEVICE,NODE=DEVICE``. Raises `ValueError`."""
    found: dict[str, str] = {}
    for part in (part for text in texts for part in text.split(",")):
        node, separator, device = part.partition("=")
        if not separator or not device.startswith("/"):
            raise ValueError(f"{part!r} is not NODE=DEVICE with the whole path of the device")
        if check_name(node) in found:
            raise ValueError(f"{node} is there twice")
        found[node] = device
    return found


def parse_metadata(text: str | None, nodes: Iterable[str]) -> dict[str, str]:
    """Places by node of ``PATH``, ``internal`` or ``NODE=PATH,NODE=internal``. Raises `ValueError`."""
    if text is None:
        return {}
    if "=" not in text:
        found = dict.fromkeys(nodes, text)
    else:
        parts = [part.partition("=") for part in text.split(",")]
        found = {node: place for node, _, place in parts}
    for node, place in found.items():
        if node not in nodes:
            raise ValueError(f"{node!r} has no copy: it is not in --on")
        if place != "internal" and not place.startswith("/"):
            raise ValueError(f"{place!r} is neither `internal` nor the whole path of a file or device")
    return found


@click.command("create", short_help="Make NAME on two nodes of the cluster, or on neither.")
@name_argument
@click.option(
    "--on",
    "copies",
    multiple=True,
    metavar="NODE=DEVICE,NODE=DEVICE",
    help="The two nodes of the cluster that get a copy, and each one's backing device: a block device or a "
    "file that exists.",
)
@click.option(
    "--metadata",
    metavar="PATH|internal",
    help="Where the metadata goes: a file or device, or `internal` for the end of the device, which "
    "shortens it; where the nodes differ, NODE=PATH,NODE=internal. Default: a file in "
    "/var/lib/blockpair/metadata.",
)
@click.option("--up/--no-up", default=True, help="With --on: bring it up on both nodes, or not.")
@click.option(
    "--tls",
    type=click.Choice(get_args(Tls)),
    default="on",
    show_default=True,
    help="With --on, off: neither encrypted nor authenticated; for loopback addresses only.",
)
@click.option(
    "--device", metavar="PATH", help="Without a cluster, or with --anew: this node's backing device."
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NODE=HOST:PORT",
    help="Without a cluster: the other node, at a loopback address.",
)
@click.option(
    "--anew",
    is_flag=True,
    help="Begin this node's copy of a resource that is there from nothing: after a disk was replaced, or to "
    "give up what this copy has. With --device or --metadata elsewhere than it is. Asks unless --yes.",
)
@click.option("--yes", is_flag=True, help="With --anew: do not ask.")
@click.option(
    "--block-size", default="4K", show_default=True, help="What is tracked as in or out of sync: 4K to 1M."
)
@click.option(
    "--protocol",
    type=click.Choice(["A", "B", "C"], case_sensitive=False),
    default="C",
    show_default=True,
    help="A write is done when A: it is on its way to the peer, B: in its memory, C: on its disk.",
)
@click.option(
    "--split-brain",
    type=click.Choice(get_args(SplitBrainPolicy)),
    default="discard-zero-changes",
    show_default=True,
    help="Whose changes go when both nodes were written without each other; the same on both nodes.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    default=0,
    show_default=True,
    help="Without a cluster: this node's, for --split-brain priority: the higher one keeps its changes.",
)
@click.option(
    "--on-io-error",
    type=click.Choice(get_args(OnIoError)),
    default="detach",
    show_default=True,
    help="When the device returns an error, detach: go on without it where the peer has a good copy; "
    "pass-on: hand the error to who asked.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Even where the device carries a file system or other data, or metadata of an earlier resource. "
    "RISK: that metadata is lost, and the data too unless this node becomes the source of the first sync.",
)
@json_option
@click.pass_obj
def command(
    directory: str | None,
    *,
    name: str,
    copies: tuple[str, ...],
    metadata: str | None,
    up: bool,
    tls: str,
    device: str | None,
    peers: tuple[str, ...],
    anew: bool,
    yes: bool,
    block_size: str,
    protocol: str,
    split_brain: str,
    priority: int,
    on_io_error: str,
    force: bool,
    as_json: bool,
) -> int:
    """Make the resource NAME on two nodes of the cluster, on both or on neither, and bring it up there.

    Only metadata is written: the data on the devices stays as it is until the first sync. A device that is
    in use is always refused, one that carries a signature (file system, RAID, LVM, ...) without --force
    (exit code 3).

    Nodes in no cluster do not trust each other: there, --device and --peer make this node's copy alone, for
    two nodes on one machine, without encryption. Do the same on the peer, then `blockpair up` on both.

    \b
    Examples:
      blockpair create r0 --on alpha=/dev/vg/r0,beta=/dev/vg/r0
      blockpair create r0 --on alpha=/dev/sdb,beta=/dev/sdc --metadata internal --protocol A
      blockpair down r0 && blockpair create r0 --anew --device /dev/sdd && blockpair up r0
      blockpair create r0 --device /srv/a.img --peer b=127.0.0.1:7790
    """
    options: dict[str, Any] = {
        "name": name,
        "block_size": block_size,
        "protocol": protocol.upper(),
        "split_brain": split_brain,
        "on_io_error": on_io_error,
        "force": force,
    }
    _check_block_size(block_size)
    for option, value in (("--device", device), ("--metadata", metadata)):
        if value == "":
            raise BlockpairError(ErrorKind.USAGE, f"{option} is empty", f"write a path after {option}")
    place = metadata if metadata is None or metadata == "internal" else str(Path(metadata).absolute())
    if anew:
        if copies or peers:
            raise BlockpairError(
                ErrorKind.USAGE, "--anew does not go with --on and --peer", f"blockpair create {name} --anew"
            )
        whole = None if device is None else str(Path(device).absolute())
        return _create_anew(
            directory,
            {"name": name, "device": whole, "metadata": place, "force": force},
            yes=yes,
            as_json=as_json,
        )
    if copies:
        if device is not None or peers or priority:
            raise BlockpairError(
                ErrorKind.USAGE,
                "--on does not go with --device, --peer and --priority",
                "give --on alone; a priority is set afterwards: "
                f"blockpair config edit --set resource.{name}.on.NODE.priority=1",
            )
        devices, places = _places(copies, metadata)
        more = {"devices": devices, "metadata": places, "tls": tls, "up": up}
        return _create_on(directory, {**options, **more}, as_json=as_json)
    if device is None or not peers:
        raise BlockpairError(
            ErrorKind.USAGE,
            "it is not said where the copies are",
            f"blockpair create {name} --on alpha=/dev/vg/r0,beta=/dev/vg/r0",
        )
    try:
        named = [parse_peer(text) for text in peers]
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.USAGE, f"--peer: {error}", "write it as --peer b=127.0.0.1:7790"
        ) from None
    more = {
        "device": str(Path(device).absolute()),
        "peers": [{"name": peer, "address": address} for peer, address in named],
        "metadata": place,
        "priority": priority,
    }
    return _create_here(directory, {**options, **more}, as_json=as_json)


def _places(copies: tuple[str, ...], metadata: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Devices and places of metadata by node. Raises `BlockpairError`."""
    try:
        devices = parse_on(copies)
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.USAGE, f"--on: {error}", "write it as --on alpha=/dev/vg/r0,beta=/dev/vg/r0"
        ) from None
    try:
        return devices, parse_metadata(metadata, devices)
    except ValueError as error:
        one, other = [*devices, "NODE"][:2]
        raise BlockpairError(
            ErrorKind.USAGE,
            f"--metadata: {error}",
            "write it as --metadata internal, --metadata /dev/vg/r0-meta or, where they differ, "
            f"--metadata {one}=internal,{other}=/dev/vg/r0-meta",
        ) from None


def _create_here(directory: str | None, params: dict[str, Any], *, as_json: bool) -> int:
    with daemon(directory) as client:
        raw = client.call_raw("resource.create", params)
    if as_json:
        print_json(raw)
        return int(ExitCode.FINE)
    import msgspec

    from blockpair.units import format_size

    made, name, peer = msgspec.json.decode(raw), params["name"], params["peers"][0]["name"]
    click.echo(f"{name}: {format_size(made['data_size_bytes'])} on {made['device']}")
    click.echo(f"  metadata       {made['metadata']} ({format_size(made['metadata_bytes'])})")
    click.echo(f"  configuration  {made['file']}")
    click.echo("  tls            off: the peer has a loopback address, and there is no cluster")
    _tell_failover(made["failover"])
    click.echo(f"Next: create it on {peer} too, then on both nodes: blockpair up {name}")
    return int(ExitCode.FINE)


def _create_anew(directory: str | None, params: dict[str, Any], *, yes: bool, as_json: bool) -> int:
    name = params["name"]
    with daemon(directory) as client:
        # An unknown name is told before anything is asked.
        client.call_raw("resource.status", {"name": name})
        confirm(
            f"This node's copy of {name} will count as one without data: it is synced from the other node.",
            yes=yes,
            as_json=as_json,
        )
        raw = client.call_raw("resource.create_anew", params)
    if as_json:
        print_json(raw)
        return int(ExitCode.FINE)
    import msgspec

    made = msgspec.json.decode(raw)
    click.echo(f"{name}: a fresh copy on {made['device']}, metadata {made['metadata']}")
    click.echo(f"Next: blockpair up {name}")
    return int(ExitCode.FINE)


def _check_block_size(text: str) -> None:
    from blockpair.config.resource import check_block_size
    from blockpair.units import parse_size

    try:
        check_block_size(parse_size(text))
    except ValueError as error:
        remedy = "write it as --block-size 4K, 8K, ... or 1M"
        raise BlockpairError(ErrorKind.USAGE, f"--block-size: {error}", remedy) from None


def _create_on(directory: str | None, params: dict[str, Any], *, as_json: bool) -> int:
    from blockpair.units import format_size

    with daemon(directory) as client:
        made = client.call("resource.create_on", params, dict[str, Any])
    code = ExitCode.DEGRADED if made["problems"] or made["pending"] else ExitCode.FINE
    if as_json:
        print_json(made)
        return int(code)
    name = made["name"]
    nodes = list(made["copies"])
    size = format_size(made["copies"][nodes[0]]["data_size_bytes"])
    click.echo(f"{name}: {size} on {' and '.join(nodes)}, version {made['version']} of the configuration")
    for node, copy in made["copies"].items():
        click.echo(f"  {node:<12} {copy['device']}, metadata {copy['metadata']}")
    for node, problem in {**made["pending"], **made["problems"]}.items():
        click.echo(f"  warning: {node}: {problem}")
    _tell_failover(made["failover"])
    if params["tls"] == "off":
        click.echo("  tls off: its connections are neither encrypted nor authenticated, on loopback only")
    if made["up"]:
        click.echo(f"Next: say whose copy counts: blockpair sync {name} --from {nodes[0]} --wait")
    else:
        click.echo(f"Next: on both nodes: blockpair up {name}")
    return int(code)


def _tell_failover(made: dict[str, Any]) -> None:
    import msgspec

    from blockpair.status.arbitration import Failover, failover_lines

    for line in failover_lines(msgspec.convert(made, Failover)):
        click.echo(f"  {line}")
