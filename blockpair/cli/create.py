"""``blockpair create``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.config.names import check_name, parse_address
from blockpair.config.resource import MAX_PRIORITY, OnIoError, SplitBrainPolicy
from blockpair.errors import BlockpairError, ErrorKind


def parse_peer(text: str) -> tuple[str, str]:
    """Name and address of ``NAME=HOST:PORT``. Raises `ValueError`."""
    name, separator, address = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not NAME=HOST:PORT, such as b=10.0.0.2:7788")
    return check_name(name), str(parse_address(address))


@click.command("create")
@name_argument
@click.option(
    "--device",
    required=True,
    metavar="PATH",
    help="The backing device: a block device or a file that exists.",
)
@click.option(
    "--peer", "peers", required=True, multiple=True, metavar="NODE=HOST:PORT", help="The other node."
)
@click.option(
    "--metadata",
    metavar="PATH|internal",
    help="Where the metadata goes: a file or device, or `internal` for the end of the device, which "
    "shortens it. Default: a file in /var/lib/blockpair/metadata.",
)
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
    help="This node's, for --split-brain priority: the higher one keeps its changes.",
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
    device: str,
    peers: tuple[str, ...],
    metadata: str | None,
    block_size: str,
    protocol: str,
    split_brain: str,
    priority: int,
    on_io_error: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make a device of this node a copy of the resource NAME. Do the same on the peer, then `blockpair up` on
    both.

    Only metadata is written: the data on the device stays as it is until the first sync. A device that is in
    use is always refused, one that carries a signature (file system, RAID, LVM, ...) without --force (exit
    code 3).

    \b
    Examples:
      blockpair create r0 --device /dev/md/r0 --peer b=10.0.0.2:7788
      blockpair create r0 --device /dev/vg0/r0 --metadata internal --peer b=10.0.0.2:7788
      truncate -s 10G /srv/r0.img && blockpair create r0 --device /srv/r0.img --peer b=10.0.0.2:7788
    """
    try:
        named = [parse_peer(peer) for peer in peers]
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.USAGE, f"--peer: {error}", "write it as --peer b=10.0.0.2:7788"
        ) from None
    for option, value in (("--device", device), ("--metadata", metadata)):
        if value == "":
            raise BlockpairError(ErrorKind.USAGE, f"{option} is empty", f"write a path after {option}")
    place = metadata if metadata is None or metadata == "internal" else str(Path(metadata).absolute())
    with daemon(directory) as client:
        raw = client.call_raw(
            "resource.create",
            {
                "name": name,
                "device": str(Path(device).absolute()),
                "peers": [{"name": peer, "address": address} for peer, address in named],
                "metadata": place,
                "block_size": block_size,
                "protocol": protocol.upper(),
                "split_brain": split_brain,
                "priority": priority,
                "on_io_error": on_io_error,
                "force": force,
            },
        )
    if as_json:
        print_json(raw)
        return
    import msgspec

    from blockpair.units import format_size

    made = msgspec.json.decode(raw)
    click.echo(f"{name}: {format_size(made['data_size_bytes'])} on {made['device']}")
    click.echo(f"  metadata       {made['metadata']} ({format_size(made['metadata_bytes'])})")
    click.echo(f"  configuration  {made['file']}")
    click.echo(f"Next: create it on {named[0][0]} too, then on both nodes: blockpair up {name}")
