"""``blockpair doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockpair.cli.output import daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

if TYPE_CHECKING:
    from blockpair.checks.finding import Examination

_PATIENCE_SECONDS = 60.0


@click.command("doctor", short_help="Check everything, before and after installation.")
@json_option
@click.pass_obj
def command(directory: str | None, as_json: bool) -> int:
    """Check this node, and by its daemon the other one and what is between them: kernel, watchdog, clocks,
    space, arrays, metadata, sizes, certificates, configuration, arbiter, fencing; ports, MTU, link rate and
    latency of each path, both ways. Each finding says what follows from it and what to do. Nothing is
    changed.

    Without a daemon, as before the installation, this node alone is looked at.

    Ends with 0 if nothing has to be done, and with 4 where a finding is a warning or an error.

    \b
    Examples:
      blockpair doctor
      blockpair doctor --json | jq '.findings[] | select(.severity == "error")'
    """
    from blockpair.checks.finding import sound

    report = examination(directory)
    if as_json:
        print_json(report)
    else:
        _print(report)
    return int(ExitCode.FINE if sound(report.worst) else ExitCode.DEGRADED)


def examination(directory: str | None) -> Examination:
    """By the daemon; without one, of this node alone. Raises `BlockpairError`."""
    from blockpair.checks.finding import Examination

    try:
        with daemon(directory) as client:
            return client.call("node.checks", {}, Examination, patience=_PATIENCE_SECONDS)
    except BlockpairError as error:
        if error.kind is not ErrorKind.NO_DAEMON:
            raise
        return _alone(directory, error.message)


def _alone(directory: str | None, why: str) -> Examination:
    from datetime import UTC, datetime

    from blockpair.checks.examine import examine_alone
    from blockpair.checks.machine import gather, taken_ports
    from blockpair.config.locations import locations
    from blockpair.config.node import read_node
    from blockpair.units import utc

    places = locations(directory=directory)
    node = read_node(places.node_file)
    now = utc(datetime.now(UTC), "seconds")
    return examine_alone(gather(node, places), now, why, taken_ports(node))


def _print(report: Examination) -> None:
    from rich.console import Console

    from blockpair.cli.doctor_text import lines

    console = Console(highlight=False)
    for line in lines(report):
        console.print(line, soft_wrap=True)
