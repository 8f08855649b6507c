"""``blockpair health``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockpair.cli.output import json_option, print_json
from blockpair.errors import ExitCode

if TYPE_CHECKING:
    from blockpair.health.score import Health, Reading

_SAMPLE_SECONDS = 1.0


@click.command("health", short_help="How well this node is, and why.")
@json_option
@click.pass_obj
def command(directory: str | None, as_json: bool) -> int:
    """Measure this node for a second, and show its score from 0 to 100, its parts with the worst first,
    and reasons.

    A saturated part brings the score down however well the others are. What cannot be seen here is named and
    left out. Works without a daemon; what the peers lack is known with one only.

    Ends with 0; with 4 if the score is under 60, which is where a Primary would rather hand over.

    \b
    Examples:
      blockpair health
      blockpair health --json | jq '.parts[] | select(.score < 100)'
    """
    import time

    from blockpair.health.handover import Policy
    from blockpair.health.score import health
    from blockpair.health.sensors import Sensors

    sensors = Sensors()
    sensors.look()
    time.sleep(_SAMPLE_SECONDS)
    measured = sensors.look()
    readings, unknown = _lag(directory)
    found = health([*measured.readings, *readings])
    unseen = [*measured.unseen, *unknown]
    if as_json:
        told = {
            "score": round(found.score, 1),
            "parts": [
                {
                    "name": part.name,
                    "value": part.value,
                    "unit": part.unit,
                    "score": round(part.score, 1),
                    "weight": part.weight,
                    "cap": round(part.cap, 1),
                    "note": part.note,
                }
                for part in found.parts
            ],
            "reasons": list(found.reasons),
            "unseen": unseen,
        }
        print_json(told)
    else:
        _print(found, unseen)
    return int(ExitCode.FINE if found.score >= Policy().sick_below else ExitCode.DEGRADED)


def _lag(directory: str | None) -> tuple[list[Reading], list[str]]:
    """What the peers lack of each resource that is Primary here, as the daemon tells."""
    from blockpair.cli.output import daemon
    from blockpair.errors import BlockpairError
    from blockpair.health.sensors import lag
    from blockpair.status.report import StatusReport

    try:
        with daemon(directory) as client:
            report = client.call("resource.status", {}, StatusReport)
    except BlockpairError as error:
        return [], [f"lag: {error.message}"]
    lacking = [
        (resource.name, sum(peer.out_of_sync_bytes for peer in resource.engine.peers))
        for resource in report.resources
        if resource.engine is not None and resource.engine.role == "Primary"
    ]
    return lag(lacking), []


def _print(found: Health, unseen: list[str]) -> None:
    click.echo(f"health {found.score:.0f} of 100")
    for part in found.parts:
        note = f"   {part.note}" if part.note else ""
        click.echo(f"  {part.score:4.0f}  {part.name:<24} {part.value:.4g} {part.unit}{note}")
    for reason in found.reasons if not found.parts else ():
        click.echo(f"  {reason}")
    for line in unseen:
        click.echo(f"     -  {line}")
