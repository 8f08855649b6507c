"""``blockpair health``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockpair.cli.output import daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

if TYPE_CHECKING:
    from blockpair.health.report import HealthReport, NodeHealth
    from blockpair.health.score import Part

_SAMPLE_SECONDS = 1.0


@click.command("health", short_help="How well this node is, and why.")
@json_option
@click.pass_obj
def command(directory: str | None, as_json: bool) -> int:
    """Show this node's score from 0 to 100, its parts with the worst first, and reasons, as the daemon
    measures them every few seconds; and the scores of the peers.

    A saturated part brings the score down however well the others are. What is decided by is the score
    smoothed over half a minute. What cannot be seen here is named and left out. Without a daemon it is
    measured for a second; what the peers lack, and how they are, is known with one only.

    Ends with 0; with 4 if this node is sick: a Primary would rather hand over.

    \b
    Examples:
      blockpair health
      blockpair health --json | jq '.parts[] | select(.score < 100)'
      blockpair health --json | jq '.peers[].health.smoothed'
    """
    from blockpair.health.report import HealthReport

    try:
        with daemon(directory) as client:
            report = client.call("node.health", {}, HealthReport)
    except BlockpairError as error:
        if error.kind is not ErrorKind.NO_DAEMON:
            raise
        report = _measured(error.message)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
    return int(ExitCode.DEGRADED if report.own.sick else ExitCode.FINE)


def _measured(why: str) -> HealthReport:
    """Without a daemon; ``why`` there is none."""
    import time

    from blockpair.health.handover import Policy
    from blockpair.health.report import HealthReport, NodeHealth, parts_of
    from blockpair.health.score import health
    from blockpair.health.sensors import Sensors

    sensors = Sensors()
    sensors.look()
    time.sleep(_SAMPLE_SECONDS)
    measured = sensors.look()
    found = health(measured.readings)
    own = NodeHealth(
        node="",
        score=round(found.score, 1),
        smoothed=round(found.score, 1),
        age_seconds=0.0,
        sick=found.score < Policy().sick_below,
        hand_over=False,
        parts=parts_of(found),
        reasons=list(found.reasons),
        unseen=[*measured.unseen, f"lag and peers: {why}"],
    )
    return HealthReport(own, [])


def _as_json(report: HealthReport) -> dict[str, Any]:
    import msgspec

    own: dict[str, Any] = msgspec.to_builtins(report.own)
    return {**own, "peers": msgspec.to_builtins(report.peers)}


def _print(report: HealthReport) -> None:
    own = report.own
    click.echo(f"health {own.score:.0f} of 100{_standing(own)}")
    for part in own.parts:
        click.echo(_line(part))
    if not own.parts:
        for reason in own.reasons:
            click.echo(f"  {reason}")
    for line in own.unseen:
        click.echo(f"     -  {line}")
    for peer in report.peers:
        if peer.health is None:
            click.echo(f"peer {peer.node}: not known: {peer.problem}")
            continue
        why = f": {'; '.join(peer.health.reasons)}" if peer.health.reasons else ""
        click.echo(f"peer {peer.node}: {peer.health.score:.0f} of 100{_standing(peer.health)}{why}")


def _standing(health: NodeHealth) -> str:
    sick = ", sick" if health.sick else ""
    return f" ({health.smoothed:.0f} over half a minute{sick})" if health.node else sick


def _line(part: Part) -> str:
    note = f"   {part.note}" if part.note else ""
    return f"  {part.score:4.0f}  {part.name:<24} {part.value:.4g} {part.unit}{note}"
