"""``blockpair notify``."""

from __future__ import annotations

from typing import Any

import click

from blockpair.cli.output import daemon, json_option, print_json
from blockpair.errors import ExitCode


@click.group("notify", short_help="Deliveries of events to programs, URLs and by mail.")
def command() -> None:
    """Events are delivered as [notify] in blockpair.toml says; see docs/events.md.

    \b
    Examples:
      blockpair notify test
    """


@command.command("test", short_help="Sends a test event through each delivery.")
@json_option
@click.pass_obj
def test(directory: str | None, as_json: bool) -> int:
    """Have the daemon send a test event to the programs in hooks.d, to each URL and by mail, as
    blockpair.toml says now, and print what became of it. What is configured about severities and kinds does
    not keep it back.

    Ends with 0 if every delivery succeeded, with 1 if one failed or there is none.

    \b
    Examples:
      blockpair notify test
      blockpair notify test --json | jq '.targets[] | select(.problem)'
    """
    with daemon(directory) as client:
        answer = client.call("notify.test", {}, dict[str, Any])
    tried = answer["targets"]
    failed = [one for one in tried if one["problem"] is not None]
    if as_json:
        print_json(answer)
    else:
        for one in tried:
            outcome = "delivered" if one["problem"] is None else f"FAILED: {one['problem']}"
            click.echo(f"{one['target']:<20} {one['place']}: {outcome}")
        if not tried:
            click.echo("nothing is configured: see [notify] in docs/reference/config.md")
        if not answer["in_effect"]:
            click.echo("blockpair.toml was changed: restart blockpaird to have this in effect")
    return int(ExitCode.FAILED if failed or not tried else ExitCode.FINE)
