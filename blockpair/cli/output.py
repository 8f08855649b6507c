"""What commands have in common: their options, the connection to the daemon, errors on standard error."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from blockpair.config.locations import locations
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import Client

_F = TypeVar("_F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; errors are JSON on stderr too."
)


def resources_here(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """For completion: the names of this node's resources that begin so; no daemon is asked."""
    directory = context.find_root().params.get("directory")
    files = locations(directory=directory).resources.glob("*.toml")
    return sorted(file.stem for file in files if file.stem.startswith(begun))


name_argument = click.argument("name", metavar="NAME", shell_complete=resources_here)
kill_users_option = click.option(
    "--kill-users",
    is_flag=True,
    help="Who holds the service's mount gets SIGTERM, then SIGKILL, and units that do not stop are killed.",
)


def daemon(directory: str | None) -> Client:
    """A connection to the daemon of ``directory`` (or BLOCKPAIR_DIR, or the system's). Raises
    `BlockpairError`.
    """
    return Client(locations(directory=directory).rpc_socket)


def print_json(value: Any) -> None:
    """A value, or JSON text, indented on standard output."""
    import msgspec

    raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
    click.echo(msgspec.json.format(raw, indent=2))


def confirm(what: str, *, yes: bool, as_json: bool) -> None:
    """Ask on the terminal whether to go on. Raises `BlockpairError`, also where nobody can be asked."""
    if yes:
        return
    check_can_ask(f"this must be confirmed: {what}", as_json=as_json)
    click.echo(what)
    if not click.confirm("Go on?", default=False):
        raise BlockpairError(ErrorKind.FAILED, "not confirmed: nothing was changed")


def check_can_ask(what: str, *, as_json: bool) -> None:
    """Raises `BlockpairError` with ``what`` where there is nobody to ask; it says the same command as it was
    given, nothing dropped, with --yes.
    """
    if as_json or not sys.stdin.isatty():
        raise BlockpairError(ErrorKind.USAGE, what, shlex.join(["blockpair", *sys.argv[1:], "--yes"]))


def print_error(error: BlockpairError, *, as_json: bool) -> None:
    """What, why and remedy, on standard error."""
    if as_json:
        told = {
            "error": {
                "kind": error.kind.value,
                "message": error.message,
                "remedy": error.remedy,
                "exit_code": int(error.exit_code),
            }
        }
        print(json.dumps(told), file=sys.stderr)
        return
    print(f"blockpair: {error.message}", file=sys.stderr)
    if error.remedy:
        remedy = error.remedy.replace("\n", "\n          ")
        print(f"  remedy: {remedy}", file=sys.stderr)


def report_crash(error: Exception, *, as_json: bool) -> None:
    """An error nobody foresaw: a line for the person, the details in a file."""
    import os
    import tempfile
    import traceback

    from blockpair.secrecy import redact

    descriptor, path = tempfile.mkstemp(prefix="blockpair-crash-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(redact("".join(traceback.format_exception(error))))
    told = BlockpairError(
        ErrorKind.INTERNAL,
        redact(f"an error that was not expected: {type(error).__name__}: {error}"),
        f"the details are in {path}; please report them",
    )
    print_error(told, as_json=as_json)
