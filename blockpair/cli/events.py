"""``blockpair events``."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import daemon, json_option, resources_here
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.events.query import Answer

_WAIT_SECONDS = 30.0
# Without a daemon nobody says when there is more.
_LOOK_SECONDS = 0.5


@click.command("events", short_help="What happened on this node.")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=resources_here)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on.")
@click.option(
    "--since", metavar="TIME", help="Not before: 1h, 30m, 2d ago, or a time such as 2026-05-01T08:00."
)
@click.option(
    "--severity",
    type=click.Choice(["info", "warning", "error"]),
    default="info",
    show_default=True,
    help="At least this severe.",
)
@click.option(
    "--kind", "kinds", metavar="KIND", multiple=True, help="Such as peer.lost or 'disk.*'; repeatable."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="The newest events, this many at most.",
)
@json_option
@click.pass_obj
def command(
    directory: str | None,
    *,
    name: str | None,
    follow: bool,
    since: str | None,
    severity: str,
    kinds: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """What happened on this node, oldest first: to the resource NAME, or at all. Each event says what, when
    and why, and what to do next where that is for a person.

    Kept durably in files of a bounded size, some 12000 events; read also while the daemon is down. What is
    delivered to programs, URLs and by mail is the same: see `blockpair notify`. --json prints an object a
    line.

    \b
    Examples:
      blockpair events
      blockpair events r0 --since 1h --severity warning
      blockpair events --follow
      blockpair events --follow --json | jq -r .text
    """
    from blockpair.events.event import encode, lines

    source = _Source(directory, name, severity, list(kinds) or ["*"])
    answers = source.answers(None if since is None else _moment(since), limit, follow=follow)
    for answer in answers:
        for event in answer.events:
            click.echo(encode(event).decode().rstrip("\n") if as_json else "\n".join(lines(event)))
        if not as_json and not follow and not answer.events:
            click.echo("there is no such event", err=True)


class _Source:
    """The daemon, or its files while it is down: which of them, is found out anew each time."""

    def __init__(self, directory: str | None, name: str | None, severity: str, kinds: list[str]) -> None:
        self._directory = directory
        self._chosen = {"resource": name, "severity": severity, "kinds": kinds}

    def answers(self, since: str | None, limit: int, *, follow: bool) -> Iterator[Answer]:
        answer, _ = self._ask({"since": since, "limit": limit})
        yield answer
        while follow:
            answer, waited = self._ask({"after": answer.last, "limit": 1000, "wait_seconds": _WAIT_SECONDS})
            yield answer
            if not waited and not answer.events:
                time.sleep(_LOOK_SECONDS)

    def _ask(self, params: dict[str, object]) -> tuple[Answer, bool]:
        """The answer, and whether the daemon has waited for it."""
        from blockpair.events.query import Answer

        try:
            with daemon(self._directory) as client:
                return client.call("events.read", {**self._chosen, **params}, Answer), True
        except BlockpairError as error:
            if error.kind is not ErrorKind.NO_DAEMON:
                raise
            return self._read(params), False

    def _read(self, params: dict[str, object]) -> Answer:
        import msgspec

        from blockpair.config.locations import locations
        from blockpair.events import query
        from blockpair.events.event import Filter

        folder = locations(directory=self._directory).events
        chosen = msgspec.convert(self._chosen, Filter)
        try:
            if "after" in params:
                return query.following(folder, chosen, int(str(params["after"])), int(str(params["limit"])))
            since = params["since"]
            return query.newest(
                folder, chosen, None if since is None else str(since), int(str(params["limit"]))
            )
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO,
                f"{error.filename or folder} cannot be read: {error.strerror}",
                "run it as root, or start blockpaird",
            ) from None


def _moment(text: str) -> str:
    """A time, or a duration before now, as the stream writes times. Raises `BlockpairError`."""
    from blockpair.units import parse_duration, utc

    if days := re.fullmatch(r"(\d{1,4})d", text.strip(), re.ASCII):
        return utc(datetime.now(UTC) - timedelta(days=int(days[1])))
    try:
        return utc(datetime.now(UTC) - timedelta(seconds=parse_duration(text)))
    except (ValueError, OverflowError):
        pass
    try:
        # Without a zone, it is this machine's.
        return utc(datetime.fromisoformat(text).astimezone())
    except (ValueError, OverflowError):
        raise BlockpairError(
            ErrorKind.USAGE,
            f"{text!r} is neither a time nor a duration",
            "write how long ago, such as 1h, 30m or 2d, or a time such as 2026-05-01T08:00",
        ) from None
