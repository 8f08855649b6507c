"""``blockpair history``."""

from __future__ import annotations

from typing import Any

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind


@click.command("history", short_help="What was decided about NAME on this node.")
@name_argument
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="The newest entries, this many at most.",
)
@click.option("--verbose", "-v", is_flag=True, help="With what each side said in a handshake.")
@json_option
@click.pass_obj
def command(directory: str | None, *, name: str, limit: int, verbose: bool, as_json: bool) -> None:
    """What was decided about NAME on this node, oldest first: promotions, syncs, handshakes, connects and
    disconnects, and who asked.

    Each entry is on the disk before the command that caused it is answered. A resource that is down, or
    deleted, still has its history. Nothing is changed. --json has all there is of each entry.

    \b
    Examples:
      blockpair history r0
      blockpair history r0 --limit 200 --verbose
      blockpair history r0 --limit 5 --json
    """
    try:
        with daemon(directory) as client:
            answer = client.call("resource.history", {"name": name, "limit": limit}, dict[str, Any])
    except BlockpairError as error:
        if error.kind is not ErrorKind.NO_DAEMON:
            raise
        answer = _read_directly(directory, name, limit)
    if as_json:
        print_json(answer)
        return
    if not answer["entries"]:
        click.echo(f"nothing was recorded of {name} on this node")
    for entry in answer["entries"]:
        click.echo("\n".join(entry_lines(entry, verbose=verbose)))


def entry_lines(entry: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """One entry for a person; ``verbose``: with the inputs of handshakes, which are long."""
    peer = f" [{entry['peer']}]" if entry["peer"] else ""
    found = [f"{entry['time']}  {entry['what']}{peer}: {entry['text']}"]
    if entry["by"]:
        found.append(f"    by {entry['by']}")
    if entry["fields"] and (verbose or entry["what"] != "handshake.verdict"):
        found.append("    " + ", ".join(f"{key}={value}" for key, value in sorted(entry["fields"].items())))
    return found


def _read_directly(directory: str | None, name: str, limit: int) -> dict[str, Any]:
    import msgspec

    from blockpair.config.locations import locations
    from blockpair.config.names import check_name
    from blockpair.history import read_history

    try:
        file = locations(directory=directory).history_file(check_name(name))
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "write the resource's name") from None
    try:
        entries = read_history(file, limit)
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO, f"{file} cannot be read: {error.strerror}", "run it as root, or start blockpaird"
        ) from None
    return {"name": name, "entries": msgspec.to_builtins(entries)}
