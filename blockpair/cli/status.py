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


@click.command("status", short_help="Show what is going on and what to do next.")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=resources_here)
@click.option(
    "--watch", is_flag=True, help="Show it again every second until interrupted; with --json, a line each."
)
@json_option
@click.pass_obj
def command(directory: str | None, name: str | None, watch: bool, as_json: bool) -> int:
    """Show who is Primary, whether the copies are good, what is out of sync, and what to do next.

    Ends with 0 if all is well and 4 if something is degraded. The JSON form is documented in
    docs/reference/status-json.md.

    \b
    Examples:
      blockpair status
      blockpair status r0 --watch
      blockpair status --json | jq '.resources[].engine.disk'
    """
    with daemon(directory) as client:
        report = fetch(client, name)
        if watch:
            return _watch(client, name, report, as_json=as_json)
    if as_json:
        print_json(report)
    else:
        _print(report)
    return int(ExitCode.FINE if report.healthy else ExitCode.DEGRADED)


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
    settled = report.configuration is None or healthy(report.configuration.advice)
    return msgspec.structs.replace(report, resources=chosen, healthy=chosen[0].healthy and settled)


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


def _watch(client: Client, name: str | None, report: StatusReport, *, as_json: bool) -> int:
    import sys
    import time

    try:
        if as_json:
            import msgspec

            while True:
                click.echo(msgspec.json.encode(report))
                sys.stdout.flush()
                time.sleep(_WATCH_SECONDS)
                report = fetch(client, name)
        if not sys.stdout.isatty():
            while True:
                _print(report)
                click.echo()
                sys.stdout.flush()
                time.sleep(_WATCH_SECONDS)
                report = fetch(client, name)
        from rich.live import Live

        from blockpair.cli.status_text import screen

        with Live(screen(report), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(_WATCH_SECONDS)
                report = fetch(client, name)
                live.update(screen(report), refresh=True)
    except KeyboardInterrupt:
        return int(ExitCode.FINE if report.healthy else ExitCode.DEGRADED)
