"""``blockpair config``: the cluster's configuration, the same on all its nodes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from blockpair.cli.output import confirm, daemon, json_option, print_json
from blockpair.cli.version_text import tell_version
from blockpair.errors import BlockpairError, ErrorKind, ExitCode


@click.group("config", short_help="The cluster's configuration, the same on all its nodes.")
def command() -> None:
    """The cluster's configuration: its nodes and resources, the same text on all of them. A change is made on
    all nodes or on none; a node that is away gets it when it is back.

    \b
    Examples:
      blockpair config show
      blockpair config edit --set resource.r0.protocol=A --why "the other site is far"
      blockpair config history
    """


@command.command("show", short_help="Print the configuration.")
@json_option
@click.pass_obj
def show(directory: str | None, as_json: bool) -> None:
    """Print the configuration, as TOML; it is in cluster.toml too.

    \b
    Examples:
      blockpair config show
      blockpair config show --json | jq .version
    """
    with daemon(directory) as client:
        answer = client.call("config.show", {}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo(f"# version {_version_line(answer)}")
    click.echo(answer["text"], nl=False)
    if answer["hand_edited"] is not None:
        click.echo(
            "blockpair: cluster.toml was edited by hand, and differs: `blockpair config diff`", err=True
        )


@command.command("history", short_help="The versions of the configuration.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="The newest ones only."
)
@json_option
@click.pass_obj
def history(directory: str | None, limit: int, as_json: bool) -> None:
    """Who changed the configuration, where, when and why; oldest first.

    \b
    Examples:
      blockpair config history
      blockpair config history --limit 5 --json
    """
    with daemon(directory) as client:
        answer = client.call("config.history", {"limit": limit}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    for version in answer["versions"]:
        click.echo(_version_line(version))


@command.command("diff", short_help="What is not settled, or changed since a version.")
@click.argument("version", metavar="[VERSION]", required=False, type=click.IntRange(1))
@json_option
@click.pass_obj
def diff(directory: str | None, version: int | None, as_json: bool) -> int:
    """Show what changed since VERSION; without it, what is not settled: where nodes changed the configuration
    while they were apart, and where cluster.toml was edited by hand.

    Ends with 4 where there is something to settle.

    \b
    Examples:
      blockpair config diff
      blockpair config diff 3
    """
    with daemon(directory) as client:
        answer = client.call("config.diff", {"version": version}, dict[str, Any])
    open_matters = version is None and bool(answer["conflicts"] or answer["hand_edited"])
    code = int(ExitCode.DEGRADED if open_matters else ExitCode.FINE)
    if as_json:
        print_json(answer)
        return code
    if version is not None:
        click.echo(answer["diff"] or "nothing has changed since", nl=not answer["diff"])
        return code
    for conflict in answer["conflicts"]:
        _show_conflict(conflict)
        click.echo(f"Next: take what {conflict['node']} has: blockpair config accept {conflict['node']}")
        click.echo(f"      or what is here, on {conflict['node']}: blockpair config accept {answer['node']}")
    if answer["hand_edited"]:
        click.echo("cluster.toml was edited by hand; that is not in force:")
        click.echo(answer["hand_edited"], nl=False)
        click.echo("Next: `blockpair config edit` begins with it; or remove the file to drop it")
    if not open_matters:
        click.echo("nothing is to be settled")
    return code


@command.command("edit", short_help="Change the configuration, on all nodes or none.")
@click.option(
    "--file", metavar="FILE|-", help="Take the whole configuration from FILE, or from standard input."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value, such as resource.r0.protocol=A; may be given several times.",
)
@click.option(
    "--unset",
    multiple=True,
    metavar="KEY",
    help="Take a key or table out, such as resource.r0.arbiter, before anything is set; may be given several "
    "times.",
)
@click.option("--why", metavar="TEXT", help="The reason, for the history.")
@json_option
@click.pass_obj
def edit(
    directory: str | None,
    *,
    file: str | None,
    settings: tuple[str, ...],
    unset: tuple[str, ...],
    why: str | None,
    as_json: bool,
) -> int:
    """Change the configuration: in $EDITOR, or by --file, or by --set and --unset.

    Every node that can be reached is asked first, and one that refuses keeps the change from being made at
    all. Addresses, names, and where and how an arbiter is asked are in use at once. What a resource that is
    up goes on with until `down` and `up`, and its service until it is moved, is told. Resources are made and
    deleted by `create` and `delete`, nodes come and go by `cluster join` and `cluster remove`.

    Ends with 4 if the change is made, and some node does not have it yet.

    \b
    Examples:
      blockpair config edit
      blockpair config edit --set resource.r0.protocol=A --why "the other site is far"
      blockpair config edit --set 'node.beta.addresses=["10.0.0.2", "10.1.0.2"]'
      blockpair config edit --unset arbiter --set arbiter.kind=manual
      blockpair config show | sed s/10.0.0.2/10.0.1.2/ | blockpair config edit --file -
    """
    by_key = bool(settings or unset)
    if by_key and file is not None:
        raise BlockpairError(
            ErrorKind.USAGE, "--file goes neither with --set nor with --unset", "give one of them"
        )
    params: dict[str, Any] = {"why": why}
    with daemon(directory) as client:
        if by_key:
            params |= {"settings": list(settings), "unset": list(unset)}
        elif file is not None:
            params["text"] = _read(file)
        else:
            present = client.call("config.show", {}, dict[str, Any])
            params |= {"text": _edited(present["hand_edited"] or present["text"]), "base": present["id"]}
        try:
            answer = client.call("config.edit", params, dict[str, Any])
        except BlockpairError as error:
            if by_key or file is not None:
                raise
            kept = _keep(params["text"])
            raise BlockpairError(
                error.kind,
                error.message,
                f"{error.remedy}\nyour text is kept: blockpair config edit --file {kept}",
            ) from None
    return _tell(answer, as_json=as_json)


@command.command("accept", short_help="End a conflict: take another node's configuration.")
@click.argument("node", metavar="NODE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def accept(directory: str | None, node: str, yes: bool, as_json: bool) -> int:
    """End a conflict by taking the configuration that NODE has: what only this side changed is given up. It
    is shown first. To keep this side's, give the command on NODE, with this node's name.

    \b
    Examples:
      blockpair config diff
      blockpair config accept beta
    """
    with daemon(directory) as client:
        answer = client.call("config.diff", {}, dict[str, Any])
        found = [conflict for conflict in answer["conflicts"] if conflict["node"] == node]
        if not found:
            others = ", ".join(conflict["node"] for conflict in answer["conflicts"])
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"there is no conflict with {node}",
                f"there is one with: {others}" if others else "nothing is to be done",
            )
        if not as_json:
            _show_conflict(found[0])
        confirm(
            f"What only this node changed goes, on all nodes; {node}'s configuration is taken.",
            yes=yes,
            as_json=as_json,
        )
        params = {"node": node, "expected": found[0]["head"]}
        return _tell(client.call("config.accept", params, dict[str, Any]), as_json=as_json)


def _tell(answer: dict[str, Any], *, as_json: bool) -> int:
    unchanged = f"it is version {answer['version']} already"
    code = tell_version(answer, unchanged=unchanged, as_json=as_json)
    arbiter = answer["arbiter"]
    if arbiter is None or arbiter["reachable"]:
        return code
    if not as_json:
        click.echo(f"  the arbiter, {arbiter['place']}, cannot be asked: {arbiter['why']}")
        click.echo(
            "  next: bring it up, or correct its address, before a node is lost: blockpair cluster status"
        )
    return int(ExitCode.DEGRADED)


def _show_conflict(conflict: dict[str, Any]) -> None:
    node = conflict["node"]
    click.echo(f"this node and {node} changed the configuration while they were apart; nothing is merged")
    for title, versions in (
        ("only here", conflict["only_here"]),
        (f"only on {node}", conflict["only_there"]),
    ):
        for version in versions:
            click.echo(f"  {title:<14} {_version_line(version)}")
    click.echo(conflict["diff"] or "  the texts are equal\n", nl=False)


def _version_line(version: dict[str, Any]) -> str:
    return f"{version['version']}  {version['time']}  on {version['author']}: {version['why']}"


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except OSError as error:
        raise BlockpairError(
            ErrorKind.USAGE, f"{file} cannot be read: {error.strerror}", "correct the path"
        ) from None
    except UnicodeDecodeError:
        raise BlockpairError(ErrorKind.USAGE, f"{file} is not UTF-8 text", "write it as UTF-8") from None


def _edited(text: str) -> str:
    """What the person makes of ``text`` in an editor. Raises `BlockpairError` where there is none."""
    if not sys.stdin.isatty():
        raise BlockpairError(
            ErrorKind.USAGE,
            "there is no terminal to edit on",
            "give --file or --set: blockpair config edit --help",
        )
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="blockpair-config-") as directory:
        file = Path(directory) / "cluster.toml"
        file.write_text(text)
        try:
            done = subprocess.run([*shlex.split(editor), str(file)], check=False)
        except (OSError, ValueError) as error:
            raise BlockpairError(
                ErrorKind.FAILED, f"the editor {editor!r} cannot be started: {error}", "set EDITOR"
            ) from None
        if done.returncode != 0:
            raise BlockpairError(
                ErrorKind.FAILED, f"the editor ended with {done.returncode}: nothing was changed", "try again"
            )
        return _read(str(file))


def _keep(text: str) -> str:
    descriptor, path = tempfile.mkstemp(prefix="blockpair-config-", suffix=".toml")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    return path
