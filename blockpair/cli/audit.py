"""``blockpair audit``: all copies compared by themselves, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockpair.cli.audit_schedule import command as schedule
from blockpair.cli.output import daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.audit.outcome import AuditRecord, AuditReport

_PATIENCE_SECONDS = 120.0


@click.group("audit", short_help="Compare all copies by themselves; what came of it.")
def command() -> None:
    """Prove that both copies of every resource are the same, from cron or a timer, and show how long ago each
    part was last proved to be.

    \b
    Examples:
      blockpair audit schedule --timer --at 'Sun 02:00' --max-time 4h     # on both nodes
      blockpair audit run
      blockpair audit report
    """


command.add_command(schedule)


@command.command("run", short_help="Compare every resource that this node leads.")
@click.option("--max-time", metavar="TIME", help="Stop after this long, such as 4h; the next audit goes on.")
@click.option("--max-rate", metavar="SIZE", help="Bytes a second at most, such as 100M.")
@json_option
@click.pass_obj
def run(directory: str | None, *, max_time: str | None, max_rate: str | None, as_json: bool) -> int:
    """Compare both copies of every resource that this node leads (as Primary, or as the first of two
    Secondaries), while they are in use; then check everything that `blockpair doctor` does.

    The resource comes first whose oldest proof is the oldest; what was not finished last time goes on where
    it stopped. One audit at a time in the cluster, and never beside a resync, or a scrub or rebuild of an
    array: it waits. When it is interrupted, it stops.

    Ends with 0: identical; 1: something could not be compared; 3: copies differ; 4: not finished in time.

    \b
    Examples:
      blockpair audit run --max-time 4h
      blockpair audit run --json | jq '.results[]'
    """
    from blockpair.audit.outcome import AuditRecord, Code

    params = {"max_seconds": _seconds(max_time), "max_rate": _rate(max_rate)}
    try:
        with daemon(directory) as client:
            record = client.call("audit.run", params, AuditRecord)
    except BlockpairError as error:
        if error.kind is ErrorKind.USAGE:
            raise
        # Whatever kept it from running, cron is told so by one code.
        raise BlockpairError(ErrorKind.FAILED, error.message, error.remedy) from None
    if as_json:
        print_json(record)
    else:
        _print_record(record)
    return int(Code(record.code))


def _seconds(text: str | None) -> float | None:
    from blockpair.units import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "such as --max-time 4h") from None


def _rate(text: str | None) -> int | None:
    from blockpair.units import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "such as --max-rate 100M") from None


def _print_record(record: AuditRecord) -> None:
    from blockpair.audit.words import TITLES, VERDICTS
    from blockpair.units import counted, format_duration

    for result in record.results:
        took = f", {format_duration(result.seconds)}" if result.seconds else ""
        why = f": {result.why}" if result.why else ""
        found = f", {counted(result.findings, 'finding')}" if result.findings else ""
        click.echo(f"{result.name}: {TITLES[result.outcome][1]}{found}{took}{why}")
    click.echo(VERDICTS[record.code][1])
    if record.errors or record.warnings:
        click.echo(
            f"checks: {counted(record.errors, 'error')}, {counted(record.warnings, 'warning')}: "
            "see `blockpair doctor`"
        )


@command.command("report", short_help="How long ago each part was proved identical.")
@click.option("--html", is_flag=True, help="One file that needs nothing else, with a map of each device.")
@click.option("--md", is_flag=True, help="Markdown.")
@json_option
@click.pass_obj
def report(directory: str | None, *, html: bool, md: bool, as_json: bool) -> None:
    """What the last audit of this node found, when each part of each resource was last proved identical, what
    was found to differ, and what the checks say now. On the standard output.

    \b
    Examples:
      blockpair audit report
      blockpair audit report --html > audit.html
      blockpair audit report --json | jq '.resources[].findings[]'
    """
    from blockpair.audit.outcome import AuditReport

    if html + md + as_json > 1:
        raise BlockpairError(
            ErrorKind.USAGE, "--html, --md and --json exclude each other", "choose one of them"
        )
    with daemon(directory) as client:
        answer = client.call("audit.report", {}, AuditReport, patience=_PATIENCE_SECONDS)
    if as_json:
        print_json(answer)
    elif html:
        from blockpair.audit.page import page

        click.echo(page(answer), nl=False)
    elif md:
        from blockpair.audit.markdown import markdown

        click.echo(markdown(answer), nl=False)
    else:
        _print_report(answer)


def _print_report(report: AuditReport) -> None:
    from datetime import datetime

    from blockpair.audit.words import covered, sentence

    now = datetime.fromisoformat(report.time).timestamp()
    _, words, more = sentence(report)
    click.echo(f"{report.node}: {words}")
    if more:
        click.echo(more)
    for verified in report.resources:
        click.echo(f"{verified.name}: {covered(verified, now)}")
