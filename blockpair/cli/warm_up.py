"""``blockpair warm-up``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("warm-up", short_help="Read what the Primary of NAME reads most, before a switchover.")
@name_argument
@json_option
@click.pass_obj
def command(directory: str | None, name: str, as_json: bool) -> None:
    """Read what the Primary of NAME reads most from this node's disk, and return when it is read.

    For a Secondary that is about to take over: what it reads then is in memory already. It takes some
    seconds, in the background, and what was read is kept for a minute. A node that becomes Primary does the
    same by itself, while it already serves.

    \b
    Examples:
      blockpair warm-up r0      (on the node that is to be Primary)
    """
    with daemon(directory) as client:
        raw = client.call_raw("resource.warm_up", {"name": name})
    if as_json:
        print_json(raw)
        return
    import msgspec

    from blockpair.status.report import ResourceReport
    from blockpair.units import format_size

    engine = msgspec.json.decode(raw, type=ResourceReport).engine
    known = 0 if engine is None else engine.warm_up.known_bytes
    click.echo(f"{name}: {format_size(known)} that the Primary reads most were read here")
