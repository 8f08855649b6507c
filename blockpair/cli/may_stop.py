"""``blockpair may-stop``."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

if TYPE_CHECKING:
    from blockpair.status.may_stop import MayStop

_POLL_SECONDS = 1.0
_INHIBIT_POLL_SECONDS = 3.0


@click.command("may-stop", short_help="Whether this node can go down, or be needed.")
@click.option("--wait", is_flag=True, help="Wait until it may.")
@click.option(
    "--timeout", metavar="TIME", help="With --wait: give up (exit code 3) after this long, such as 2m."
)
@click.option(
    "--inhibit",
    is_flag=True,
    help="Until it is ended: keep shutdown and sleep from this machine, by systemd-inhibit, while it may not "
    "go down. What blockpair-inhibit.service runs.",
)
@json_option
@click.pass_obj
def command(directory: str | None, *, wait: bool, timeout: str | None, inhibit: bool, as_json: bool) -> int:
    """Whether this node can go down without taking a disk in use, or the only good copy of one, with it: exit
    code 0 if it can, 3 if not, with the reasons and what removes them.

    \b
    Examples:
      blockpair may-stop && systemctl poweroff
      blockpair may-stop --wait --timeout 10m
      blockpair may-stop --json | jq .may_stop
    """
    from blockpair.cli.wait import seconds
    from blockpair.status.may_stop import exit_code

    if inhibit and (wait or timeout or as_json):
        raise BlockpairError(
            ErrorKind.USAGE, "--inhibit goes with no other option", "blockpair may-stop --inhibit"
        )
    if timeout is not None and not wait:
        raise BlockpairError(
            ErrorKind.USAGE, "--timeout needs --wait", f"blockpair may-stop --wait --timeout {timeout}"
        )
    if inhibit:
        _inhibit(directory)
        return int(ExitCode.FINE)
    limit = seconds(timeout)
    answer = _ask(directory)
    deadline = None if limit is None else time.monotonic() + limit
    while wait and not answer.may_stop and (deadline is None or time.monotonic() < deadline):
        time.sleep(_POLL_SECONDS)
        answer = _ask(directory)
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    return int(exit_code(answer))


def _ask(directory: str | None) -> MayStop:
    """Raises `BlockpairError`."""
    from blockpair.cli.status import fetch
    from blockpair.status.may_stop import may_stop

    with daemon(directory) as client:
        report = fetch(client, None)
    return may_stop(report.node, report.resources)


def _print(answer: MayStop) -> None:
    if answer.may_stop:
        click.echo(
            f"{answer.node} may go down: nothing here is in use, and no copy here is the only good one"
        )
        return
    click.echo(f"{answer.node} must not go down:")
    for obstacle in answer.obstacles:
        click.echo(f"  {obstacle.text}")
        click.echo(f"    next: {obstacle.remedy}")


def _inhibit(directory: str | None) -> None:
    """Hold the inhibitor while the answer is no, until SIGTERM or SIGINT. Raises `BlockpairError`."""
    lock = _Lock()
    with _ended_by_signals(), contextlib.suppress(KeyboardInterrupt):
        try:
            while True:
                answer = None
                # A daemon that is restarted says nothing for a moment: what it said last counts.
                with contextlib.suppress(BlockpairError):
                    answer = _ask(directory)
                if answer is not None and answer.may_stop:
                    lock.release()
                elif answer is not None:
                    lock.hold(answer.obstacles[0].text)
                lock.check()
                time.sleep(_INHIBIT_POLL_SECONDS)
        finally:
            lock.release()


class _Lock:
    """The service manager's inhibitor: `systemd-inhibit` holds it for as long as the program that it runs."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None

    def hold(self, why: str) -> None:
        """Take it, unless it is held. Raises `BlockpairError`."""
        if self._holder is not None:
            return
        try:
            # `cat` ends with this program, however that ends: then nobody writes to it any more.
            self._holder = subprocess.Popen(
                [
                    "systemd-inhibit",
                    "--what=shutdown:sleep",
                    "--mode=block",
                    "--who=blockpair",
                    f"--why={why}",
                    "cat",
                ],
                stdin=subprocess.PIPE,
            )
        except OSError as error:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"systemd-inhibit cannot be started: {error.strerror}",
                "this needs systemd; without it, ask `blockpair may-stop` before this node goes down",
            ) from None
        click.echo(f"held: {why}")

    def check(self) -> None:
        """Raises `BlockpairError` where it was lost, or never taken."""
        if self._holder is not None and self._holder.poll() is not None:
            code = self._holder.returncode
            self._holder = None
            raise BlockpairError(
                ErrorKind.FAILED,
                f"systemd-inhibit ended with {code}: nothing keeps this node from going down",
                "see that systemd-logind runs (`loginctl`), then start blockpair-inhibit.service again",
            )

    def release(self) -> None:
        """Give it up. Idempotent."""
        if self._holder is not None:
            assert self._holder.stdin is not None
            self._holder.stdin.close()
            self._holder.wait()
            self._holder = None
            click.echo("released: this node may go down")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM as SIGINT, which ends the waiting."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
