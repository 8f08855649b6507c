"""``blockpair bundle``: what split brains' victims lost, and how to get it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockpair.cli.output import confirm, daemon, json_option, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.bundles import BundleFile, Exported

which_argument = click.argument("bundle", metavar="BUNDLE|RES|FILE")


@click.group("bundle", short_help="What a split brain's loser lost, kept as it was.")
def command() -> None:
    """What a split brain's loser lost: every bundle has its blocks as they were.

    BUNDLE is a name that `list` shows, RES a resource (its newest bundle), FILE a path (with a slash).

    \b
    Examples:
      blockpair bundle list r0
      blockpair bundle show r0
      blockpair bundle restore r0 --to /srv/r0-as-it-was.img
    """


@command.command("list")
@click.argument("resource", metavar="[RES]", required=False)
@json_option
@click.pass_obj
def list_(directory: str | None, resource: str | None, as_json: bool) -> None:
    """The bundles on this node: of RES, or of all resources.

    \b
    Examples:
      blockpair bundle list
      blockpair bundle list r0 --json
    """
    answer = _answer(directory, "bundle.list", {"resource": resource}, lambda: _listing(directory, resource))
    if as_json:
        print_json(answer)
        return
    import msgspec

    from blockpair.bundles import Entry
    from blockpair.cli.bundle_text import natural_width, table

    entries = msgspec.convert(answer, type=list[Entry])
    if not entries:
        click.echo("there are no bundles on this node")
        return
    from rich.console import Console

    shown = table(entries)
    # As wide as it is: a name that is cut off names no bundle.
    Console(highlight=False, width=natural_width(shown)).print(shown)


@command.command("show", short_help="What a bundle is of; checks all of it.")
@which_argument
@json_option
@click.pass_obj
def show(directory: str | None, bundle: str, as_json: bool) -> None:
    """What a bundle is of, after all its blocks were compared with their checksums.

    \b
    Examples:
      blockpair bundle show r0
      blockpair bundle show ./20261124T221500Z-00f1c4d20a6be1aa.bpb --json
    """
    which = _absolute(bundle)
    answer = _answer(directory, "bundle.show", {"name": which}, lambda: _shown(directory, which))
    if as_json:
        print_json(answer)
        return
    from blockpair.cli.bundle_text import lines

    click.echo("\n".join([*lines(_bundle(answer)), "all blocks match their checksums"]))


@command.command("export", short_help="Serve the victim's whole device as it was.")
@which_argument
@json_option
@click.pass_obj
def export(directory: str | None, bundle: str, as_json: bool) -> None:
    """Serve the victim's whole device as it was, read-only, until interrupted (Ctrl-C).

    It is the bundle's blocks over the present device of this node, on an NBD socket. Blocks that changed
    after the bundle was saved, or of which that is not known, cannot be read (I/O error): nothing else is
    shown in their place. The resource must be up.

    \b
    Examples:
      blockpair bundle export r0
      blockpair bundle export r0 --json        # a line with the socket, then it serves
    """
    with _exported(directory, _absolute(bundle)) as (exported, wait):
        if as_json:
            import msgspec

            click.echo(msgspec.json.encode(exported))
        else:
            from blockpair.cli.bundle_text import export_lines

            click.echo("\n".join(export_lines(exported)))
        import sys

        sys.stdout.flush()
        try:
            wait()
        except KeyboardInterrupt:
            return
    raise BlockpairError(
        ErrorKind.FAILED,
        f"the export has ended: {exported.bundle.facts.resource} was taken down",
        "bring it up and export again",
    )


@command.command("restore", short_help="Write a bundle's blocks back to the device.")
@which_argument
@click.option("--to", "image", metavar="FILE", help="Write the whole device as it was to a new file instead.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def restore(directory: str | None, bundle: str, image: str | None, yes: bool, as_json: bool) -> None:
    """Write a bundle's blocks back, as new writes through this node's device: they are replicated.

    What is in those blocks now is lost, and a file system on the device is a mixture of old and new
    afterwards unless nothing else was written since: for single files, use `export`. Refused (exit code 3)
    unless this node is Primary and nobody uses the device.

    With --to, nothing of the resource is changed.

    \b
    Examples:
      blockpair bundle restore r0
      blockpair bundle restore r0 --to /srv/r0-as-it-was.img
    """
    which = _absolute(bundle)
    if image is not None:
        told = _to_image(directory, which, Path(image))
        if as_json:
            print_json(told)
        else:
            click.echo(f"{told['file']} has the {told['bytes']} bytes of the device as it was")
        return
    with daemon(directory) as client:
        shown = _bundle(client.call("bundle.show", {"name": which}, dict[str, Any]))
        name = shown.facts.resource
        confirm(
            f"{shown.saved_bytes} bytes of {name} would be overwritten with those of {shown.facts.node} "
            f"in {shown.path}",
            yes=yes,
            as_json=as_json,
        )
        answer = client.call("bundle.restore", {"name": which}, dict[str, Any])
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{answer['bytes']} bytes of {name} are as they were on {shown.facts.node}")


@command.command("delete", short_help="Remove a bundle of this node for good.")
@which_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def delete(directory: str | None, bundle: str, yes: bool, as_json: bool) -> None:
    """Remove a bundle of this node for good: what the victim lost is gone then.

    Refused (exit code 3) while it is exported.

    \b
    Examples:
      blockpair bundle delete 20261124T221500Z-00f1c4d20a6be1aa.bpb
      blockpair bundle delete r0 --yes         # its newest one
    """
    which = _absolute(bundle)
    with daemon(directory) as client:
        found = client.call("bundle.find", {"name": which}, dict[str, Any])
        confirm(
            f"{found['path']} would be deleted, and with it what only it has",
            yes=yes,
            as_json=as_json,
        )
        answer = client.call("bundle.delete", {"name": found["path"]}, dict[str, Any])
    if as_json:
        print_json(answer)
    else:
        click.echo(f"deleted {answer['path']}")


def _absolute(which: str) -> str:
    """The daemon has another working directory."""
    return str(Path(which).absolute()) if "/" in which else which


def _answer(directory: str | None, method: str, params: dict[str, Any], direct: Callable[[], Any]) -> Any:
    """By way of the daemon, which may be open to those who cannot read the files; without one, directly."""
    try:
        with daemon(directory) as client:
            return client.call(method, params, Any)
    except BlockpairError as error:
        # A file that the daemon will not open for this user: perhaps it is the user's own.
        if error.kind not in (ErrorKind.NO_DAEMON, ErrorKind.NOT_PERMITTED):
            raise
        import msgspec

        return msgspec.to_builtins(direct())


def _listing(directory: str | None, resource: str | None) -> Any:
    from blockpair.bundles import listing
    from blockpair.config.locations import locations

    return listing(locations(directory=directory), resource)


def _shown(directory: str | None, which: str) -> BundleFile:
    from blockpair.bundles import find, read
    from blockpair.config.locations import locations

    return read(find(locations(directory=directory), which), verify=True)


def _bundle(answer: Any) -> BundleFile:
    import msgspec

    from blockpair.bundles import BundleFile

    return msgspec.convert(answer, type=BundleFile)


@contextmanager
def _exported(directory: str | None, which: str) -> Iterator[tuple[Exported, Callable[[], None]]]:
    """An export, served inside; and what waits for its end by the other side. Raises `BlockpairError`."""
    import threading

    from blockpair.bundles import Exported

    with daemon(directory) as client:
        exported = client.call("bundle.export", {"name": which}, Exported)
        failed: list[BlockpairError] = []

        def hold() -> None:
            try:
                client.call_raw("bundle.hold", {"socket": exported.socket})
            except BlockpairError as error:
                failed.append(error)

        # The export ends with this connection, however this process ends.
        thread = threading.Thread(target=hold, daemon=True)
        thread.start()

        def wait() -> None:
            thread.join()
            if failed:
                raise failed[0]

        yield exported, wait


def _to_image(directory: str | None, which: str, image: Path) -> dict[str, Any]:
    from blockpair.bridge import copy_image

    with _exported(directory, which) as (exported, _):
        if exported.changed_blocks != 0:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                "the whole device as it was is not known any more: "
                + (
                    "what changed after the bundle was saved is not known"
                    if exported.changed_blocks is None
                    else f"{exported.changed_blocks} blocks changed after the bundle was saved"
                ),
                f"`blockpair bundle export {which}` serves what is known, and errors in place of the rest",
            )
        try:
            image.open("xb").close()
        except FileExistsError:
            raise BlockpairError(
                ErrorKind.EXISTS, f"{image} exists", "name a new file, or move that one away"
            ) from None
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO, f"{image} cannot be made: {error.strerror}", "name another place"
            ) from None
        try:
            size = copy_image(Path(exported.socket), image)
        except BaseException:
            # Half an image is taken for a whole one sooner or later.
            image.unlink(missing_ok=True)
            raise
    return {"file": str(image), "bytes": size}
