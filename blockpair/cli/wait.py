"""``blockpair wait``."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.conditions import CONDITIONS, missing, summary
from blockpair.units import parse_duration

if TYPE_CHECKING:
    from blockpair.status.report import ResourceReport


def seconds(text: str | None, option: str = "--timeout") -> float | None:
    """The value of ``option``: seconds, or a number with ms, s, m or h. Raises `BlockpairError`."""
    if text is None:
        return None
    try:
        plain = re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII)
        return float(text) if plain else parse_duration(text)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, f"{option}: {error}", f"write it as {option} 30s") from None


@click.command(
    "wait", epilog="States: " + "; ".join(f"{name}: {text}" for name, text in CONDITIONS.items()) + "."
)
@name_argument
@click.option("--until", required=True, metavar="STATE[,STATE...]", help="What must hold, all of it at once.")
@click.option(
    "--timeout", metavar="TIME", help="Give up (exit code 1) after this long, such as 30s. Default: never."
)
@json_option
@click.pass_obj
def command(directory: str | None, name: str, until: str, timeout: str | None, as_json: bool) -> None:
    """Wait until the resource NAME is in a state.

    After a second, standard error says what it is instead.

    \b
    Examples:
      blockpair wait r0 --until connected --timeout 30s
      blockpair wait r0 --until primary,synced
      blockpair wait r0 --until protected      # on the Primary: from now on it may be lost
    """
    from blockpair.cli.waiting import waiting_told

    states = [state.strip().lower() for state in until.split(",") if state.strip()]
    params = {"name": name, "until": states, "timeout_seconds": seconds(timeout)}
    told = nullcontext() if as_json else waiting_told(directory, name, lambda report: _unmet(states, report))
    with daemon(directory) as client, told:
        raw = client.call_raw("resource.wait", params)
    if as_json:
        print_json(raw)


def _unmet(states: list[str], report: ResourceReport) -> str | None:
    """What does not hold yet, and what does; None: nothing is missing, or there is no such state."""
    if any(state not in CONDITIONS for state in states):
        return None
    unmet = missing(states, report)
    return f"not {', '.join(unmet)} yet: it is {summary(report)}" if unmet else None
