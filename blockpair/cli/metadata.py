"""``blockpair metadata show`` and ``dump``."""

from __future__ import annotations

from typing import Any

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind


@click.group("metadata")
def command() -> None:
    """Read a resource's metadata on the disk; nothing is changed.

    \b
    Examples:
      blockpair metadata show r0
      blockpair metadata dump r0
    """


@command.command("show", short_help="Sizes, generations, what is out of sync.")
@name_argument
@json_option
@click.pass_obj
def show(directory: str | None, name: str, as_json: bool) -> None:
    """The superblock of NAME: sizes, generation ids, what is out of sync with each peer.

    \b
    Examples:
      blockpair metadata show r0
      blockpair metadata show r0 --json
    """
    answer = _read(directory, name, dump=False)
    if as_json:
        print_json(answer)
        return
    from blockpair.cli.metadata_text import lines

    click.echo("\n".join(lines(answer)))


@command.command("dump", short_help="All of it: also each run of marks.")
@name_argument
@json_option
@click.pass_obj
def dump(directory: str | None, name: str, as_json: bool) -> None:
    """All of it: also each run of blocks in the out-of-sync bitmaps and the write-intent log.

    \b
    Examples:
      blockpair metadata dump r0
      blockpair metadata dump r0 --json > r0.json
    """
    answer = _read(directory, name, dump=True)
    if as_json:
        print_json(answer)
        return
    from blockpair.cli.metadata_text import lines, run_lines

    click.echo("\n".join([*lines(answer), *run_lines(answer["metadata"])]))


def _read(directory: str | None, name: str, *, dump: bool) -> dict[str, Any]:
    """By way of the daemon, which may be open to those who cannot read the disk; without one, directly."""
    try:
        with daemon(directory) as client:
            answer = client.call("resource.metadata", {"name": name, "dump": dump}, dict[str, Any])
    except BlockpairError as error:
        if error.kind is not ErrorKind.NO_DAEMON:
            raise
        return _read_directly(directory, name, dump=dump)
    return answer


def _read_directly(directory: str | None, name: str, *, dump: bool) -> dict[str, Any]:
    from blockpair.bridge import read_metadata
    from blockpair.config.locations import locations
    from blockpair.config.node import read_node
    from blockpair.config.resource import read_resource

    places = locations(directory=directory)
    try:
        config = read_resource(places.resource_file(name), read_node(places.node_file).name)
    except FileNotFoundError:
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"there is no resource {name!r} in {places.resources}",
            "check the name and BLOCKPAIR_DIR",
        ) from None
    return {"up": False, "metadata": read_metadata(config, dump=dump)}
