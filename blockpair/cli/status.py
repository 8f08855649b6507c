"""``blockpair status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockpair.cli.output import daemon, json_option, print_json, resources_here
from blockpair.errors import ExitCode

if TYPE_CHECKING:
    from blockpair.rpc.client import Client
    from blockpair.status.report import StatusReport

_WATCH_SECONDS = 1.0
_SHORTEST, _LONGEST = 0.1, 3600.0


@click.command("status", short_help="Show what is going on and what to do next.")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=resources_here)
@click.option(
    "--watch",
    is_flag=True,
    help="A live screen until interrupted, with throughput, latency and the last events; with --json a line "
    "each, and where no terminal is, plain text again and again.",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(_SHORTEST, _LONGEST),
    help=f"How often --watch looks (default: {_WATCH_SECONDS:g}).",
)
@json_option
@click.pass_obj
def command(
    directory: str | None, *, name: str | None, watch: bool, interval: float | None, as_json: bool
) -> int:
    """Show who is Primary, whether the copies are good, what is out of sync, and what to do next.

    Ends with 0 if all is well and 4 if something is degraded. The JSON form is documented in
    docs/reference/status-json.md.

    \b
    Examples:
      blockpair status
      blockpair status r0 --watch
      blockpair status --watch --interval 5
      blockpair status --json | jq '.resources[].engine.disk'
    """
    if interval is not None and not watch:
        raise click.UsageError("--interval is of --watch: add --watch, or leave --interval out")
    report = _look(directory, name)
    if watch:
        return _watch(directory, name, report, interval or _WATCH_SECONDS, as_json=as_json)
    if as_json:
        print_json(report)
    else:
        _print(report)
    return int(ExitCode.FINE if report.healthy else ExitCode.DEGRADED)


def _look(directory: str | None, name: str | None) -> StatusReport:
    """By a connection of its own: a daemon that was started anew is found."""
    with daemon(directory) as client:
        return fetch(client, name)


def fetch(client: Client, name: str | None) -> StatusReport:
    """The report on one resource or all. Raises `BlockpairError`."""
    import msgspec

    from blockpair.errors import BlockpairError, ErrorKind
    from blockpair.rpc.client import LOOK_SECONDS
    from blockpair.status.advice import healthy
    from blockpair.status.report import StatusReport

    report = client.call("resource.status", {}, StatusReport, patience=LOOK_SECONDS)
    if name is None:
        return report
    chosen = [resource for resource in report.resources if resource.name == name]
    if not chosen:
        known = ", ".join(resource.name for resource in report.resources)
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"there is no resource {name!r} on {report.node}",
            f"the resources here are: {known}" if known else "create one: `blockpair create --help`",
        )
    well = chosen[0].healthy and healthy(report.node_advice)
    return msgspec.structs.replace(report, resources=chosen, healthy=well)


def _print(report: StatusReport) -> None:
    """The screen, once. Lines are broken for a terminal only: in a pipe or file, each stays whole."""
    from rich.console import Console

    from blockpair.cli.status_text import screen

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(screen(report))
        return
    for line in screen(report).renderables:
        console.print(line, soft_wrap=True)


def _watch(
    directory: str | None, name: str | None, report: StatusReport, interval: float, *, as_json: bool
) -> int:
    import sys
    import time

    if not as_json and _can_draw():
        from blockpair.cli.watch import follow

        report = follow(lambda: _look(directory, name), report, interval)
        return int(ExitCode.FINE if report.healthy else ExitCode.DEGRADED)
    try:
        while True:
            if as_json:
                import msgspec

                click.echo(msgspec.json.encode(report))
            else:
                _print(report)
                click.echo()
            sys.stdout.flush()
            time.sleep(interval)
            report = _look(directory, name)
    except KeyboardInterrupt:
        return int(ExitCode.FINE if report.healthy else ExitCode.DEGRADED)


def _can_draw() -> bool:
    """Whether standard output is a terminal on which things can be drawn in place."""
    from rich.console import Console

    console = Console()
    return console.is_terminal and not console.is_dumb_terminal
