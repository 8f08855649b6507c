"""``blockpair audit schedule``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.audit.schedule import Kind

_DEFAULT_AT = "Sun 02:00"
_SYSTEMCTL_SECONDS = 60


@click.command("schedule", short_help="Have audits run by themselves; show when.")
@click.option("--timer", "kind", flag_value="timer", help="By a timer of systemd.")
@click.option("--cron", "kind", flag_value="cron", help="By a line in cron.d.")
@click.option(
    "--at", metavar="[DAY] TIME", help=f"Local time: 02:30, or 'Sun 02:30'.  [default: {_DEFAULT_AT}]"
)
@click.option("--max-time", metavar="TIME", help="Each stops after this long, and the next goes on: 4h, 90m.")
@click.option("--max-rate", metavar="SIZE", help="Bytes a second at most, such as 100M.")
@click.option("--remove", is_flag=True, help="Take away what is scheduled.")
@json_option
@click.pass_obj
def command(
    directory: str | None,
    *,
    kind: str | None,
    at: str | None,
    max_time: str | None,
    max_rate: str | None,
    remove: bool,
    as_json: bool,
) -> None:
    """Have this node audit what it leads, by a systemd timer or a cron.d line, and show it. Without options:
    show what is scheduled. Do so on both nodes, at the same time if you like: audits wait for each other.

    What is there of the other kind goes: there is one schedule a node.

    \b
    Examples:
      blockpair audit schedule
      blockpair audit schedule --timer --at 'Sun 02:00' --max-time 4h
      blockpair audit schedule --cron --at 01:30
      blockpair audit schedule --remove
    """
    from blockpair.audit.schedule import KINDS, files

    if remove and (kind or at or max_time or max_rate):
        raise BlockpairError(
            ErrorKind.USAGE, "--remove goes with no other option", "blockpair audit schedule --remove"
        )
    if kind is None and (at or max_time or max_rate):
        raise BlockpairError(
            ErrorKind.USAGE, "--timer or --cron is missing", "blockpair audit schedule --timer --at '02:30'"
        )
    root = _root(directory)
    if remove:
        _remove(root)
    elif kind is not None:
        chosen: Kind = "timer" if kind == "timer" else "cron"
        _install(chosen, root, at or _DEFAULT_AT, _bounds(max_time, max_rate))
    there = [file for each in KINDS for file in files(each, root) if file.exists()]
    if as_json:
        print_json({"files": [{"path": str(file), "content": file.read_text()} for file in there]})
        return
    for file in there:
        click.echo(f"# {file}\n{file.read_text()}")
    if not there:
        click.echo("no audit is scheduled: blockpair audit schedule --timer")
    elif root != Path("/"):
        click.echo("Nobody reads these files there: link them below /etc")


def _root(directory: str | None) -> Path:
    """Below which the files are: as everything of a node, below its directory where it has one."""
    from blockpair.config.locations import locations

    config = locations(directory=directory).config
    return Path("/") if config == locations({}).config else config.parent


def _bounds(max_time: str | None, max_rate: str | None) -> list[str]:
    """As `audit run` takes them."""
    from blockpair.units import parse_duration, parse_size

    words: list[str] = []
    try:
        if max_time is not None:
            parse_duration(max_time)
            words += ["--max-time", max_time]
        if max_rate is not None:
            parse_size(max_rate)
            words += ["--max-rate", max_rate]
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "blockpair audit schedule --help") from None
    return words


def _install(kind: Kind, root: Path, at: str, bounds: list[str]) -> None:
    from blockpair.audit.schedule import KINDS, contents, files, moment
    from blockpair.config.files import write_atomically

    try:
        when = moment(at)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "blockpair audit schedule --help") from None
    own = Path(sys.argv[0]).absolute() if Path(sys.argv[0]).name == "blockpair" else shutil.which("blockpair")
    program = [str(own)] if own else [sys.executable, "-m", "blockpair.cli.main"]
    words = [*program, *([] if root == Path("/") else ["--dir", str(root)]), "audit", "run"]
    words += bounds
    log = "/var/log/blockpair-audit.log" if root == Path("/") else str(root / "audit.log")
    try:
        for file, content in zip(files(kind, root), contents(kind, when, words, log), strict=True):
            write_atomically(file, content)
    except OSError as error:
        raise _not_written(error) from None
    [other] = [each for each in KINDS if each != kind]
    _remove_kind(other, root)
    if kind == "timer" and root == Path("/"):
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", files("timer", root)[1].name)


def _remove(root: Path) -> None:
    from blockpair.audit.schedule import KINDS

    for kind in KINDS:
        _remove_kind(kind, root)


def _remove_kind(kind: Kind, root: Path) -> None:
    from blockpair.audit.schedule import files

    there = [file for file in files(kind, root) if file.exists()]
    if not there:
        return
    if kind == "timer" and root == Path("/"):
        _systemctl("disable", "--now", there[-1].name)
    try:
        for file in there:
            file.unlink()
    except OSError as error:
        raise _not_written(error) from None
    if kind == "timer" and root == Path("/"):
        _systemctl("daemon-reload")


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(
            ["systemctl", *words],
            capture_output=True,
            text=True,
            timeout=_SYSTEMCTL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        why = "" if done.returncode == 0 else done.stderr.strip() or f"it ended with {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        raise BlockpairError(
            ErrorKind.FAILED,
            f"the files are written, and `systemctl {' '.join(words)}` failed: {why}",
            "where there is no systemd: blockpair audit schedule --cron",
        )


def _not_written(error: OSError) -> BlockpairError:
    return BlockpairError(
        ErrorKind.IO, f"{error.filename} cannot be written: {error.strerror}", "run it as root"
    )
