"""``blockpair promote``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json


@click.command("promote", short_help="Make this node Primary for NAME.")
@name_argument
@click.option(
    "--force",
    is_flag=True,
    help="Promote even where it is unsafe. RISK: what only the peer has is lost or, if the peer writes too, "
    "the two copies fork (split brain) and the changes of one of them must be thrown away later. On an "
    "Inconsistent copy, one whose resync was cut off, it serves a mixture of old and new blocks: a state "
    "that the data never had; should the source come back, that is a split brain. Only for when no other "
    "copy is left.",
)
@json_option
@click.pass_obj
def command(directory: str | None, name: str, force: bool, as_json: bool) -> None:
    """Make this node Primary for NAME: its device may be read and written here.

    Refused (exit code 3) while the peer is Primary or this node's copy may not be the newest. A peer that is
    not connected is asked too: --force counts against its silence, not against its word that it is Primary.

    \b
    Examples:
      blockpair promote r0
      blockpair promote r0 --force     # the other node is lost for good
    """
    if force:
        click.echo(
            "blockpair: --force: what only the peer has may be lost; if it is still writing, the copies fork",
            err=True,
        )
    with daemon(directory) as client:
        raw = client.call_raw("resource.promote", {"name": name, "force": force})
    if as_json:
        print_json(raw)
        return
    import msgspec

    from blockpair.status.report import ResourceReport

    report = msgspec.json.decode(raw, type=ResourceReport)
    click.echo(f"{name} is Primary on this node")
    if report.kernel_device.link is not None:
        click.echo(f"  device      {report.kernel_device.link} ({report.kernel_device.path})")
    elif report.kernel_device.error is not None:
        click.echo(f"  no kernel device: {report.kernel_device.error}", err=True)
    if report.nbd_socket is not None:
        click.echo(f"  NBD socket  nbd+unix:///?socket={report.nbd_socket}")
