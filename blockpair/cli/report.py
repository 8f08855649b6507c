"""``blockpair report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blockpair.cli.output import daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind

_PATIENCE_SECONDS = 60.0


@click.command("report", short_help="Collect a support archive, without secrets.")
@click.option(
    "--output",
    metavar="FILE",
    help="Where it goes; it must not be there yet. By default blockpair-report-NODE-TIME.tar.gz, here.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0.1, max=8760),
    default=24.0,
    show_default=True,
    help="How much of events and logs.",
)
@json_option
@click.pass_obj
def command(directory: str | None, *, output: str | None, hours: float, as_json: bool) -> None:
    """Collect what those who help need to see: status, checks, configuration, histories, events, logs,
    versions, facts of the machine, in a tar.gz that only you may read. Keys, tokens, passwords and the paths
    of URLs are replaced by [hidden]; names and addresses are not: look into it before you pass it on. Nothing
    is sent.

    Works without a daemon too. What could not be had is named, and keeps nothing from the rest; as root
    there is most.

    \b
    Examples:
      blockpair report
      blockpair report --output /tmp/alpha.tar.gz --hours 6
    """
    import time
    from datetime import UTC, datetime

    from blockpair.config.locations import locations
    from blockpair.config.node import read_node
    from blockpair.support.archive import write
    from blockpair.support.sources import secrets, sources
    from blockpair.units import format_size

    places = locations(directory=directory)
    try:
        node = read_node(places.node_file)
    except BlockpairError:
        # The file is in the archive, and is perhaps what is wrong.
        node = None

    def call(method: str, params: dict[str, Any]) -> bytes:
        with daemon(directory) as client:
            return client.call_raw(method, params, patience=_PATIENCE_SECONDS)

    now = time.time()
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = f"blockpair-report-{node.name if node else 'node'}-{stamp}"
    path = Path(output or f"{folder}.tar.gz")
    if path.exists():
        raise BlockpairError(ErrorKind.EXISTS, f"{path} is there already", "name another file")
    found = write(
        path,
        folder,
        list(sources(places, call, log=_log_file(directory), hours=hours)),
        known=secrets(node, places),
        now=now,
    )
    if as_json:
        print_json({"path": str(path), "bytes": found.size, "parts": found.parts, "missing": found.missing})
        return
    click.echo(f"{path}: {len(found.parts)} files, {format_size(found.size)}; for you alone to read")
    for name, why in sorted(found.missing.items()):
        click.echo(f"  not to be had: {name}: {why}")
    click.echo("Look into it before you pass it on: names and addresses are in it")


def _log_file(directory: str | None) -> str | None:
    """The file that the daemon logs to; None where it is the journal, or nobody knows."""
    try:
        with daemon(directory) as client:
            place = client.call("daemon.info", {}, dict[str, Any])["log"]
    except BlockpairError:
        return None
    return str(place) if str(place).startswith("/") else None
