"""``blockpair plan NAME WISH``: the steps of a service's way up or down."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockpair.cli.output import daemon, print_json
from blockpair.cli.service import table_of

if TYPE_CHECKING:
    from blockpair.config.service import Service
    from blockpair.errors import BlockpairError
    from blockpair.failover.plan import Ladder, State, Step

_FILE = Path("cluster.toml")


@dataclass(frozen=True)
class _Seen:
    """What the plan is made from."""

    service: Service
    state: State
    problem: str
    refusal: BlockpairError | None
    """Why a promotion would be refused already by what this node knows."""


def show(directory: str | None, name: str, wish: str, *, kill_users: bool, as_json: bool) -> None:
    """Print the plan. Raises `BlockpairError`."""
    from blockpair.failover.plan import Wish, plan

    seen = _look(directory, name)
    steps = plan(seen.service, seen.state, Wish(wish), kill_users=kill_users)
    refusal = seen.refusal if wish == Wish.PROMOTE else None
    if as_json:
        print_json(
            {
                "resource": name,
                "wish": wish,
                "refused": None if refusal is None else refusal.message,
                "problem": seen.problem or None,
                "steps": [_as_json(step, seen.service) for step in steps],
            }
        )
        return
    click.echo(f"{wish} of {name}, from what is up on this node now:")
    for number, step in enumerate(_lines(steps), 1):
        click.echo(f"{number:4}  {_words(step.do, seen.service)}")
        if step.satisfied:
            click.echo("        done already")
            continue
        click.echo(f"        at most {step.timeout:g} s; done when {step.check}")
        if step.undo:
            click.echo(f"        undone by: {_words(step.undo, seen.service)}")
    if seen.problem:
        click.echo(f"not seen: {seen.problem}")
    if refusal is not None:
        click.echo(f"it would be refused now: {refusal.message}\n  next: {refusal.remedy}")


def _lines(steps: tuple[Step, ...]) -> list[Step]:
    """Those that do something this way."""
    return [step for step in steps if step.do]


def _look(directory: str | None, name: str) -> _Seen:
    from blockpair.cli.status import fetch
    from blockpair.config.service import service_config
    from blockpair.failover.observe import observe
    from blockpair.failover.plan import Role
    from blockpair.status.risk import in_vain

    with daemon(directory) as client:
        service = service_config(table_of(client, name), _FILE, f"resource.{name}.service")
        report = fetch(client, name).resources[0]
    role = Role.PRIMARY if report.engine is not None and report.engine.role == "Primary" else Role.SECONDARY
    kernel = report.kernel_device
    device = Path(kernel.path) if kernel is not None and kernel.path is not None else None
    state, problem = asyncio.run(observe(service, role, device))
    return _Seen(service, state, problem, None if report.engine is None else in_vain(report.engine))


def _words(ladder: Ladder, service: Service) -> str:
    from blockpair.failover.plan import describe

    return "; else ".join(describe(rung.action, service) for rung in ladder)


def _as_json(step: Step, service: Service) -> dict[str, Any]:
    from blockpair.failover.plan import describe

    def rungs(ladder: Ladder) -> list[dict[str, Any]]:
        return [
            {
                "verb": rung.action.verb,
                "subject": rung.action.subject,
                "text": describe(rung.action, service),
                "timeout_seconds": rung.timeout,
            }
            for rung in ladder
        ]

    return {
        "name": step.name,
        "do": rungs(step.do),
        "undo": rungs(step.undo),
        "check": step.check,
        "satisfied": step.satisfied,
        "on_failure": step.on_failure,
    }
