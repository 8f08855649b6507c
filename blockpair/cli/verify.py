"""``blockpair verify``: compare both copies while they are in use, and mend what differs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import confirm, daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

if TYPE_CHECKING:
    from blockpair.rpc.client import Client
    from blockpair.verify.messages import VerifyReport

_POLL_SECONDS = 0.2


@click.command("verify", short_help="Compare both copies of NAME while they are in use; mend what differs.")
@name_argument
@click.option("--range", "part", metavar="FROM-TO", help="Only these bytes, such as 1G-2G (default: all).")
@click.option("--max-rate", metavar="SIZE", help="At most so much a second, such as 100M.")
@click.option("--wait", "follow", is_flag=True, help="Show the progress and return when it has ended.")
@click.option("--timeout", metavar="TIME", help="With --wait: return (exit code 4) after this long.")
@click.option("--stop", is_flag=True, help="End the comparison; the next one goes on there.")
@click.option("--report", "only_report", is_flag=True, help="What was proved and found; nothing is begun.")
@click.option("--repair", is_flag=True, help="Overwrite what differs on the Secondary, saved there first.")
@click.option("--waive", is_flag=True, help="What differs may do so: nobody is troubled by it any more.")
@click.option("--yes", is_flag=True, help="With --repair or --waive: do not ask.")
@json_option
@click.pass_obj
def command(
    directory: str | None,
    *,
    name: str,
    part: str | None,
    max_rate: str | None,
    follow: bool,
    timeout: str | None,
    stop: bool,
    only_report: bool,
    repair: bool,
    waive: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Compare both copies of NAME, block by block, while they are in use; on the node that is Primary.

    It gives way to the application, and goes on by itself after a restart or a lost connection. Without
    --range the last comparison that was stopped goes on; or everything is compared, that first which was
    proved identical the longest ago. What differs is kept as a finding, on both nodes, until it is repaired
    or waived; nothing is overwritten.

    With --repair the Primary's copy overwrites the findings on the Secondary, which saves its blocks in a
    bundle first (`blockpair bundle --help`). Refused where no node is Primary.

    \b
    Exit codes, with --wait, --report and --repair: 0 identical (as far as was asked),
    1 it could not run, 3 there are differences, 4 not finished. Otherwise 0 when it is begun.

    \b
    Examples:
      blockpair verify r0 --wait
      blockpair verify r0 --range 10G-20G --max-rate 100M
      blockpair verify r0 --report --json
      blockpair verify r0 --repair
    """
    chosen = sum([stop, only_report, repair, waive])
    if chosen > 1 or (chosen and (part is not None or max_rate is not None or follow)):
        raise BlockpairError(
            ErrorKind.USAGE,
            "--stop, --report, --repair and --waive are one at a time, and begin no comparison",
            "see: blockpair verify --help",
        )
    if yes and not (repair or waive):
        raise BlockpairError(ErrorKind.USAGE, "--yes needs --repair or --waive", "leave --yes away")
    with daemon(directory) as client:
        if stop:
            return _stop(client, name, as_json=as_json)
        if only_report:
            return _tell(_report(client, name), as_json=as_json)
        if repair:
            return _repair(client, name, yes=yes, as_json=as_json)
        if waive:
            return _waive(client, name, yes=yes, as_json=as_json)
        return _start(client, name, part, max_rate, follow=follow, timeout=timeout, as_json=as_json)


def _start(
    client: Client,
    name: str,
    part: str | None,
    max_rate: str | None,
    *,
    follow: bool,
    timeout: str | None,
    as_json: bool,
) -> int:
    import msgspec

    from blockpair.cli.wait import seconds
    from blockpair.verify import messages

    limit = seconds(timeout)
    if limit is not None and not follow:
        raise BlockpairError(ErrorKind.USAGE, "--timeout needs --wait", "add --wait, or leave --timeout away")
    offset, length = (None, None) if part is None else byte_range(part)
    params = messages.StartParams(name, offset, length, _size("--max-rate", max_rate))
    before = _report(client, name)
    # Whoever waits for one that is under way is welcome.
    if not (follow and before.running and part is None and max_rate is None):
        client.call_raw(messages.START, msgspec.to_builtins(params))
    if not follow:
        report = _report(client, name)
        if as_json:
            print_json(report)
        else:
            click.echo(f"{name}: comparing both copies; to follow it: blockpair verify {name} --wait")
        return ExitCode.FINE
    from blockpair.cli.verify_progress import follow as show

    report, in_time = show(lambda: _report(client, name), limit, _POLL_SECONDS, time.monotonic)
    ended = _tell(report, asked=True, as_json=as_json)
    return ended if in_time else ExitCode.DEGRADED


def byte_range(text: str) -> tuple[int, int]:
    """Offset and length of ``FROM-TO``. Raises `BlockpairError`."""
    first, dash, last = text.partition("-")
    start, end = _size("--range", first or "0"), _size("--range", last)
    if not dash or start is None or end is None or end <= start:
        raise BlockpairError(
            ErrorKind.USAGE,
            f"{text!r} is no range",
            "write FROM-TO, two sizes of which the first is less: 1G-2G",
        )
    return start, end - start


def _size(option: str, text: str | None) -> int | None:
    from blockpair.units import parse_size

    if not text:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, f"{option}: {error}", "correct it") from None


def _report(client: Client, name: str) -> VerifyReport:
    from blockpair.verify.messages import REPORT, VerifyReport

    return client.call(REPORT, {"name": name}, VerifyReport)


def exit_code(report: VerifyReport, *, asked: bool) -> int:
    """What a script is told: 0 identical, 1 it could not run, 3 differences, 4 not finished. ``asked``: of
    what was compared last; otherwise of all that is known.
    """
    if any(finding.open for finding in report.findings) and not (asked and report.ended == "identical"):
        return ExitCode.UNSAFE
    if report.running or report.ended in (None, "stopped"):
        return ExitCode.DEGRADED
    return ExitCode.FAILED if report.ended == "failed" else ExitCode.FINE


def _tell(report: VerifyReport, *, asked: bool = False, as_json: bool) -> int:
    from blockpair.cli.verify_text import lines

    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(lines(report, time.time())))
    return exit_code(report, asked=asked)


def _stop(client: Client, name: str, *, as_json: bool) -> int:
    from blockpair.verify.messages import STOP, VerifyReport

    report = client.call(STOP, {"name": name}, VerifyReport)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name}: nothing is compared; the next comparison goes on where this one stopped")
    return ExitCode.FINE


def _repair(client: Client, name: str, *, yes: bool, as_json: bool) -> int:
    from blockpair.cli.verify_text import overwritten
    from blockpair.status.report import ResourceReport
    from blockpair.verify.messages import REPAIR, VerifyReport

    found = _open(client, name)
    status = client.call("resource.status", {"name": name}, ResourceReport)
    confirm(overwritten(status, found), yes=yes, as_json=as_json)
    # What a person was shown is what is overwritten, nothing that was found since.
    offsets = [finding.offset for finding in found.findings if finding.open]
    report = client.call(REPAIR, {"name": name, "offsets": offsets}, VerifyReport)
    return _tell(report, as_json=as_json)


def _waive(client: Client, name: str, *, yes: bool, as_json: bool) -> int:
    from blockpair.units import counted
    from blockpair.verify.messages import WAIVE, VerifyReport

    offsets = [finding.offset for finding in _open(client, name).findings if finding.open]
    blocks = counted(len(offsets), "block")
    what = f"{name}: {blocks} differ between both copies, and stay so; nobody is told any more"
    confirm(what, yes=yes, as_json=as_json)
    report = client.call(WAIVE, {"name": name, "offsets": offsets}, VerifyReport)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{name}: {blocks} waived, on this node")
    return ExitCode.FINE


def _open(client: Client, name: str) -> VerifyReport:
    report = _report(client, name)
    if not any(finding.open for finding in report.findings):
        raise BlockpairError(
            ErrorKind.FAILED,
            f"{name}: no block is known to differ: there is nothing to repair or waive",
            f"look: blockpair verify {name} --wait",
        )
    return report
