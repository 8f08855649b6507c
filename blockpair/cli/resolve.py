"""``blockpair resolve``: what a split brain's sides would lose."""

from __future__ import annotations

from typing import Any

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_json
from blockpair.units import format_size

_PATHS_SHOWN = 50


@click.command("resolve")
@name_argument
@json_option
@click.pass_obj
def command(directory: str | None, name: str, as_json: bool) -> None:
    """What this node changed of NAME that its peer lacks: lost if this side of a split brain is given up.

    Run it on both nodes to choose whose changes to keep. The files are those of an ext4 or xfs file system on
    the device (by debugfs or xfs_db), as it is on the disk. Nothing is changed.

    \b
    Examples:
      blockpair resolve r0
      blockpair resolve r0 --json
    """
    with daemon(directory) as client:
        answer = client.call("resource.loss", {"name": name}, dict[str, Any])
    if as_json:
        print_json(answer)
        return
    click.echo("\n".join(loss_lines(answer)))


def loss_lines(answer: dict[str, Any]) -> list[str]:
    """The answer for a person."""
    loss, files = answer["loss"], answer["files"]
    found = [f"{answer['name']}: {answer['node']} has what {loss['peer']} lacks:"]
    if loss["whole"]:
        found.append("  what changed is not known: it may be everything")
    else:
        least = "" if loss["complete"] else "at least "
        found.append(
            f"  changed   {least}{loss['changed_blocks']} blocks, {format_size(loss['changed_bytes'])}, in "
            f"{loss['extents']} places"
        )
        if loss["possible_bytes"]:
            found.append(
                f"  possibly  {format_size(loss['possible_bytes'])} more, in places written to lately: its "
                "blocks are compared at the resync"
            )
    if files["problem"] is not None:
        found.append(f"  files     not known: {files['problem']}")
        return found
    more = "" if files["complete"] else ", and more: the list is cut off"
    found.append(f"  files     {len(files['paths'])} that may have changed ({files['file_system']}){more}")
    found += [f"    {path}" for path in files["paths"][:_PATHS_SHOWN]]
    if len(files["paths"]) > _PATHS_SHOWN:
        found.append(f"    … {len(files['paths']) - _PATHS_SHOWN} more with --json")
    if files["other_blocks"]:
        found.append(f"  {files['other_blocks']} blocks of no file: the file system's own, or free")
    return found
