"""``blockpair promote``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from blockpair.cli.output import check_can_ask, daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.rpc.client import Client

_AGAIN_SECONDS = 0.2


@click.command("promote", short_help="Make this node Primary for NAME.")
@name_argument
@click.option(
    "--force",
    is_flag=True,
    help="Go on without anybody's word, also where this node is Primary and its writes wait. RISK: what "
    "only the peer has is lost or, if the peer writes too, the two copies fork (split brain) and the changes "
    "of one of them must be thrown away later. On an Inconsistent copy, one whose resync was cut off, it "
    "serves a mixture of old and new blocks: a state that the data never had; should the source come back, "
    "that is a split brain. Only for when no other copy is left. Says what is at risk, and asks for the "
    "resource's name unless --yes.",
)
@click.option("--yes", is_flag=True, help="With --force: do not ask for the name.")
@click.option(
    "--without-service",
    is_flag=True,
    help="What follows the data (mount, units, addresses) stays down until the next promote without this: to "
    "make or repair the file system.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    help="While the arbiter cannot be reached: go on trying for so long, such as 5m. Default: some seconds.",
)
@json_option
@click.pass_obj
def command(
    directory: str | None,
    *,
    name: str,
    force: bool,
    yes: bool,
    without_service: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Make this node Primary for NAME: its device may be read and written here. Where a service follows the
    data (`blockpair service show NAME`), it is brought up too: the mount, the units, the addresses. If a step
    of that fails, everything is undone and this node is Secondary again.

    With an arbiter it waits for the arbiter's word, and says what it waits for. Refused (exit code 3) while
    the peer is Primary or this node's copy may not be the newest. A peer that is not connected is asked too:
    --force counts against its silence, not against its word that it is Primary.

    \b
    Examples:
      blockpair promote r0
      blockpair promote r0 --timeout 5m
      blockpair promote r0 --without-service     # then: mkfs.ext4 /dev/blockpair/r0
      blockpair promote r0 --force     # the other node is certainly off
      blockpair promote r0 --force --yes --json
    """
    from blockpair.cli.wait import seconds
    from blockpair.cli.waiting import waiting_told
    from blockpair.status.arbitration import waits_for

    limit = seconds(timeout) or 0.0
    with daemon(directory) as client:
        if force:
            _confirm(client, name, yes=yes, as_json=as_json)
        with waiting_told(directory, name, waits_for):
            params = {"name": name, "force": force, "without_service": without_service}
            raw = _promoted(client, params, time.monotonic() + limit)
    import msgspec

    from blockpair.status.arbitration import watchdog_failure
    from blockpair.status.report import ResourceReport
    from blockpair.status.service import service_line

    report = msgspec.json.decode(raw, type=ResourceReport)
    failure = watchdog_failure(name, report.engine)
    if failure is not None:
        raise failure
    if as_json:
        print_json(raw)
        return
    click.echo(f"{name} is Primary on this node")
    if report.kernel_device.link is not None:
        click.echo(f"  device      {report.kernel_device.link} ({report.kernel_device.path})")
    elif report.kernel_device.error is not None:
        click.echo(f"  no kernel device: {report.kernel_device.error}", err=True)
    if report.nbd_socket is not None:
        click.echo(f"  NBD socket  nbd+unix:///?socket={report.nbd_socket}")
    if report.service is not None:
        click.echo(f"  service     {service_line(report.service)}")


def _promoted(client: Client, params: dict[str, Any], deadline: float) -> bytes:
    """The answer; until then again and again, as long as it is for want of the arbiter. Raises
    `BlockpairError`.
    """
    while True:
        try:
            return client.call_raw("resource.promote", params)
        except BlockpairError as error:
            if error.kind is ErrorKind.UNREACHABLE and time.monotonic() < deadline:
                time.sleep(_AGAIN_SECONDS)
            elif error.kind in (ErrorKind.UNREACHABLE, ErrorKind.FAILED):
                raise _cause(client, params["name"]) or error from None
            else:
                raise


def _cause(client: Client, name: str) -> BlockpairError | None:
    """What kept the engine from asking the arbiter at all, or None. Raises `BlockpairError`."""
    from blockpair.status.arbitration import watchdog_failure
    from blockpair.status.report import ResourceReport

    report = client.call("resource.status", {"name": name}, ResourceReport)
    return watchdog_failure(name, report.engine)


def _confirm(client: Client, name: str, *, yes: bool, as_json: bool) -> None:
    """Say what is at risk, and have the name typed. Raises `BlockpairError` where it is not."""
    from blockpair.status.report import ResourceReport
    from blockpair.status.risk import in_vain, lines, risk

    # An unknown name is told before anything is asked, and one that is down has nothing to be said of.
    report = client.call("resource.status", {"name": name}, ResourceReport)
    if report.engine is not None:
        # Before anybody weighs a risk that is not there to be taken.
        if (refusal := in_vain(report.engine)) is not None:
            raise refusal
        click.echo("\n".join(lines(risk(report.engine))), err=True)
    if yes:
        return
    check_can_ask(f"promote --force of {name} must be confirmed", as_json=as_json)
    typed = click.prompt(
        f"Type the resource's name to go on ({name})", default="", show_default=False, err=True
    )
    if typed != name:
        raise BlockpairError(ErrorKind.FAILED, "that is another name: nothing was changed")
