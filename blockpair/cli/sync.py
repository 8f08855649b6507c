"""``blockpair sync``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.rpc.client import Client
    from blockpair.status.report import ResourceReport

_POLL_SECONDS = 0.1


@click.command("sync", short_help="Start the first sync of NAME, or follow one.")
@name_argument
@click.option("--from", "source", metavar="NODE", help="Sync everything with NODE's copy as the good one.")
@click.option(
    "--wait", "follow", is_flag=True, help="Show the progress and return when all copies are UpToDate."
)
@click.option("--timeout", metavar="TIME", help="With --wait: give up (exit code 1) after this long.")
@json_option
@click.pass_obj
def command(
    directory: str | None, *, name: str, source: str | None, follow: bool, timeout: str | None, as_json: bool
) -> None:
    """Start the first sync of the resource NAME, or follow one that runs.

    With --from, while no copy has ever had data, every other copy is overwritten with what NODE has. Once
    there is data it overwrites nothing: resyncs begin by themselves, from the newer copy, and --from is
    refused (exit code 3) if one runs the other way.

    \b
    Examples:
      blockpair sync r0 --from a --wait     # both copies are new; keep what is on a
      blockpair sync r0 --wait
    """
    from blockpair.cli.wait import seconds

    limit = seconds(timeout)
    if limit is not None and not follow:
        raise BlockpairError(ErrorKind.USAGE, "--timeout needs --wait", "add --wait, or leave --timeout away")
    with daemon(directory) as client:
        report = _report(client, name)
        if source is not None:
            client.call_raw("resource.sync", {"name": name, "source": source})
            click.echo(started(report, source), err=True)
            report = _report(client, name)
        elif not follow and not _resyncing(report):
            _nothing_runs(report)
        if follow:
            from blockpair.cli.progress import show

            report = show(lambda: _report(client, name), limit, _POLL_SECONDS, time.monotonic)
        if as_json:
            import msgspec

            print_json(msgspec.json.encode(report))
        elif not follow:
            from blockpair.cli.progress import plain

            click.echo(plain(report))


def _report(client: Client, name: str) -> ResourceReport:
    from blockpair.status.report import ResourceReport

    return client.call("resource.status", {"name": name}, ResourceReport)


def started(before: ResourceReport, source: str) -> str:
    """What a sync from ``source`` that was accepted overwrites, in words, by the state it was asked in."""
    from blockpair.status.conditions import had_data
    from blockpair.units import format_size

    engine = before.engine
    if engine is not None and had_data(engine):
        return f"{before.name} has data already: --from starts nothing, what differs is resynced by itself"
    size = "" if engine is None else f" ({format_size(engine.size_bytes)})"
    if engine is not None and source != engine.node:
        return f"the copy on this node, {before.device}{size}, is overwritten with that of {source}"
    peers = ", ".join(peer.name for peer in before.peers)
    return f"the copy on {peers}{size} is overwritten with that of {source}"


def _resyncing(report: ResourceReport) -> bool:
    return report.engine is not None and any(peer.resync is not None for peer in report.engine.peers)


def _nothing_runs(report: ResourceReport) -> None:
    from blockpair.status.conditions import copies_synced

    if report.engine is None or copies_synced(report.engine):
        return
    told = report.advice[0] if report.advice else None
    raise BlockpairError(
        ErrorKind.FAILED,
        f"no resync runs for {report.name}" + (f": {told.text}" if told else ""),
        told.remedy if told else "",
    )
