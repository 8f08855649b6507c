"""What became of a change of the cluster's configuration, and what it takes, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from blockpair.cli.output import print_json
from blockpair.errors import ExitCode


def tell_version(answer: dict[str, Any], *, unchanged: str, as_json: bool) -> int:
    """Print the version that a change made, who has yet to get it and what is to be done for it, or
    ``unchanged``; the exit code.
    """
    code = int(ExitCode.DEGRADED if answer["pending"] else ExitCode.FINE)
    if as_json:
        print_json(answer)
        return code
    if not answer["changed"]:
        click.echo(f"nothing was changed: {unchanged}")
        return code
    click.echo(f"version {answer['version']}: {answer['why']}")
    for node, why in answer["pending"].items():
        click.echo(f"  pending for {node}, which gets it when it is back: {why}")
    for effect in answer["effects"]:
        for line in _to_do(effect["resource"], effect):
            click.echo(f"  {line}")
    return code


def _to_do(name: str, effect: dict[str, Any]) -> Iterator[str]:
    nodes = " and ".join(effect["nodes"])
    if effect["arbiter"]:
        until = f"blockpair down {name} (on {nodes}, Primary first), then blockpair up {name} (on both)"
        yield f"{name} goes by its old arbiter until: {until}"
    elif nodes:
        until = f"blockpair down {name} && blockpair up {name} (on {nodes})"
        yield f"{name} goes on as before until: {until}"
    # A daemon that is older than this command says nothing of these.
    if manual := effect.get("manual", ""):
        yield f"from then on nobody takes {name} over by itself: {manual}"
    service = effect.get("service", "")
    if service == "first":
        yield f"where {name} is Primary already, its service is brought up by: blockpair promote {name}"
    elif service:
        until = f"blockpair switchover {name}, or demote and promote"
        yield f"where the service of {name} is up, it goes on as before until: {until}"
