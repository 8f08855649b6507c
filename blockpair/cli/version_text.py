"""What became of a change of the cluster's configuration, for people and as JSON."""

from __future__ import annotations

from typing import Any

import click

from blockpair.cli.output import print_json
from blockpair.errors import ExitCode


def tell_version(answer: dict[str, Any], *, unchanged: str, as_json: bool) -> int:
    """Print the version that a change made and who has yet to get it, or ``unchanged``; the exit code."""
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
    return code
