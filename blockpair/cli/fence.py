"""``blockpair fence``: whether this node could switch the others off. It asks the devices itself, so it works
while no daemon runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockpair.cli.output import check_can_ask, json_option, print_json
from blockpair.config.locations import locations
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

_NO_POWER = (
    "does not cut power: a node that is only cut off from something can still fence this one, so that proves "
    "nothing; use an agent that cuts power"
)

if TYPE_CHECKING:
    from blockpair.arbiter.fence.fencer import Checked
    from blockpair.config.fence import NodeFence


@click.group("fence", short_help="Whether this node could switch the others off.")
def command() -> None:
    """Whether this node could switch the others off, by the devices under [fence.NODE] in the cluster's
    configuration. A resource whose arbiter is "fence" goes on without its peer only once that is seen off.

    \b
    Examples:
      blockpair fence status
      blockpair fence test beta
    """


@command.command("status", short_help="Ask every fence device whether it works.")
@json_option
@click.pass_obj
def status(directory: str | None, as_json: bool) -> int:
    """Ask every device that this node would fence another node with whether it works (the agents' action
    "monitor"). Nothing is switched.

    Ends with 0 if all of them work, or none is configured; with 4 if one does not.

    \b
    Examples:
      blockpair fence status
      blockpair fence status --json | jq '.devices[] | select(.works | not)'
    """
    from blockpair.arbiter.fence.fencer import Fencer

    here = _setting(directory)
    others = {node: fence for node, fence in here.fences.items() if node != here.node}
    fencer = Fencer(others, told=_hear_nothing)

    async def ask() -> list[list[Checked]]:
        return await asyncio.gather(*(fencer.check(node, "monitor") for node in others))

    found = dict(zip(others, asyncio.run(ask()), strict=True))
    devices = [
        {**_document(node, each), "works": each.problem is None}
        for node, some in found.items()
        for each in some
    ]
    if as_json:
        delays = {node: fence.delay for node, fence in here.fences.items()}
        print_json({"node": here.node, "delay_seconds": delays, "devices": devices})
    elif not devices:
        click.echo("no other node has a fence: there is no [fence.NODE] in the cluster's configuration")
    else:
        for node, fence in others.items():
            head_start = f", fenced after a delay of {fence.delay:g} s" if fence.delay else ""
            click.echo(f"{node}{head_start}")
            for each in found[node]:
                click.echo(f"  {_line(each, 'works')}")
    return int(ExitCode.FINE if all(each["works"] for each in devices) else ExitCode.DEGRADED)


@command.command("test", short_help="Try the fence devices of NODE.")
@click.argument("node", metavar="NODE")
@click.option("--off", is_flag=True, help="Really switch NODE off, as in an emergency, without its delay.")
@click.option("--yes", is_flag=True, help="With --off: do not ask for NODE's name.")
@json_option
@click.pass_obj
def test(directory: str | None, node: str, off: bool, yes: bool, as_json: bool) -> int:
    """Ask each fence device of NODE whether NODE is on (the agents' action "status"). With --off, switch NODE
    off: level by level, until all devices of one say that it is off. What runs on NODE is lost as in a power
    cut.

    Ends with 0 if every device could tell or, with --off, NODE is proved off; with 1 if not.

    \b
    Examples:
      blockpair fence test beta
      blockpair fence test beta --off
    """
    here = _setting(directory)
    fence = here.fences.get(node)
    if fence is None:
        known = ", ".join(sorted(here.fences))
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"{here.file}: there is no [fence.{node}]",
            f"name one of: {known}"
            if known
            else f"add [fence.{node}] with `blockpair config edit`; docs/arbiters.md shows how",
        )
    if off:
        if node == here.node:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{node} is this node: it would end before it could see whether it is off",
                f"run it on the other node: blockpair fence test {node} --off",
            )
        _confirm_off(node, yes=yes, as_json=as_json)
        return _switch_off(node, fence, as_json=as_json)
    return _ask_status(node, fence, as_json=as_json)


def _ask_status(node: str, fence: NodeFence, *, as_json: bool) -> int:
    from blockpair.arbiter.fence.fencer import Fencer, cuts_power

    fencer = Fencer({node: fence}, told=_hear_nothing)

    async def ask() -> tuple[list[Checked], list[Checked]]:
        return await fencer.check(node, "status"), await fencer.check(node, "metadata")

    found, described = asyncio.run(ask())
    able = [cuts_power(each) for each in described]
    if as_json:
        devices = [
            {**_document(node, each), "power": each.power, "cuts_power": cuts}
            for each, cuts in zip(found, able, strict=True)
        ]
        print_json({"node": node, "delay_seconds": fence.delay, "devices": devices})
    else:
        click.echo(node)
        for each, cuts in zip(found, able, strict=True):
            click.echo(f"  {_line(each, f'{node} is {each.power}')}")
            if cuts is False:
                click.echo(f"  FAILED  {each.agent} {_NO_POWER}")
    fine = all(each.problem is None for each in found) and False not in able
    return int(ExitCode.FINE if fine else ExitCode.FAILED)


def _switch_off(node: str, fence: NodeFence, *, as_json: bool) -> int:
    from blockpair.arbiter.fence.fencer import FenceFailed, Fencer

    def hear(event: str, fields: Mapping[str, object]) -> None:
        if event == "fence.level-failed" and not as_json:
            click.echo(f"  level {fields['by_level']} failed: {fields['reason']}", err=True)

    if not as_json:
        click.echo(f"switching {node} off", err=True)
    try:
        proof = asyncio.run(Fencer({node: fence}, told=hear).fence(node, delayed=False))
    except FenceFailed as error:
        raise BlockpairError(
            ErrorKind.FAILED, str(error), f"see what works: blockpair fence test {node}"
        ) from None
    if as_json:
        print_json({"node": node, "off": True, "level": proof.level, "seconds": round(proof.seconds, 3)})
    else:
        click.echo(f"{node} is off: every device of level {proof.level} says so, after {proof.seconds:.1f} s")
    return int(ExitCode.FINE)


def _confirm_off(node: str, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    what = f"{node} will be switched off, and what runs on it is lost as in a power cut"
    check_can_ask(f"this must be confirmed: {what}", as_json=as_json)
    click.echo(what)
    if click.prompt("To go on, type its name", default="", show_default=False) != node:
        raise BlockpairError(ErrorKind.FAILED, "not confirmed: nothing was switched off")


@dataclass(frozen=True)
class _Setting:
    node: str
    file: Path
    fences: dict[str, NodeFence]


def _setting(directory: str | None) -> _Setting:
    """This node's name, and how nodes are fenced. Raises `BlockpairError`."""
    from blockpair.config.fence import read_fences
    from blockpair.config.node import read_node

    places = locations(directory=directory)
    node = read_node(places.node_file).name
    try:
        return _Setting(node, places.cluster_file, read_fences(places.cluster_file))
    except FileNotFoundError:
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"this node is in no cluster: there is no {places.cluster_file}",
            "make one: blockpair cluster init NAME",
        ) from None


def _hear_nothing(event: str, fields: Mapping[str, object]) -> None:
    pass


def _document(node: str, found: Checked) -> dict[str, Any]:
    return {
        "node": node,
        "device": found.device,
        "agent": found.agent,
        "seconds": round(found.seconds, 3),
        "problem": found.problem,
    }


def _line(found: Checked, good: str) -> str:
    if found.problem is not None:
        return f"FAILED  {found.problem}"
    return f"ok      {found.device}: {good} ({found.seconds:.1f} s)"
