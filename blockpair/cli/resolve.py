"""``blockpair resolve``: what a split brain's sides would lose, and giving one of them up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from blockpair.cli.output import confirm, daemon, json_option, name_argument, print_json
from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.rpc.client import Client
    from blockpair.status.plan import Plan
    from blockpair.status.report import ResourceReport

_POLL_SECONDS = 0.1


@click.command("resolve", short_help="What a split brain's sides would lose; end it.")
@name_argument
@click.option("--discard", "victim", metavar="NODE", help="Give up the changes of NODE, on either node.")
@click.option(
    "--no-bundle",
    is_flag=True,
    help="RISK: save nothing of what is given up. It is gone for good, and the history says so.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", "follow", is_flag=True, help="Follow the resync until all copies are UpToDate.")
@json_option
@click.pass_obj
def command(
    directory: str | None,
    *,
    name: str,
    victim: str | None,
    no_bundle: bool,
    yes: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """What each node changed of NAME that the other lacks, and would lose if its side of a split brain were
    given up; with --discard, give it up.

    The files are those of an ext4 or xfs file system on the device (by debugfs or xfs_db on each node), as it
    is on the disk. Without --discard nothing is changed.

    With --discard, NODE saves all blocks that will be overwritten in a bundle (`blockpair bundle --help`),
    and is then resynced from the other node. Refused (exit code 3) while NODE is Primary: demote it first. If
    the bundle cannot be saved, nothing is given up.

    \b
    Examples:
      blockpair resolve r0
      blockpair resolve r0 --discard b --wait
      blockpair resolve r0 --discard b --yes --json
    """
    if victim is None:
        if no_bundle or yes or follow:
            raise BlockpairError(
                ErrorKind.USAGE,
                "--no-bundle, --yes and --wait need --discard",
                f"name the node whose changes go: blockpair resolve {name} --discard NODE",
            )
        return _show(directory, name, as_json=as_json)
    with daemon(directory) as client:
        _discard(client, name, victim, bundle=not no_bundle, yes=yes, follow=follow, as_json=as_json)


def _show(directory: str | None, name: str, *, as_json: bool) -> None:
    from blockpair.cli.resolve_text import loss_lines
    from blockpair.status.loss import BothLosses

    with daemon(directory) as client:
        both = client.call("resource.loss", {"name": name}, BothLosses)
    if as_json:
        print_json(both)
    else:
        click.echo("\n".join(loss_lines(both)))


def _discard(
    client: Client, name: str, victim: str, *, bundle: bool, yes: bool, follow: bool, as_json: bool
) -> None:
    from blockpair.cli.resolve_text import printable
    from blockpair.status.loss import BothLosses
    from blockpair.status.plan import Plan

    plan = client.call("resource.plan", {"name": name}, Plan)
    what = given_up(plan, victim, bundle=bundle)
    confirm(
        what,
        yes=yes,
        as_json=as_json,
    )
    changed = any(
        side is not None and side.node == victim and side.marked.blocks for side in (plan.own, plan.other)
    )
    before = _bundles(client, name)
    client.call_raw("resource.resolve", {"name": name, "victim": victim, "bundle": bundle})
    # A victim that had changed nothing has made none.
    saved = next((path for path in _bundles(client, name) if path not in before), None)
    if not as_json:
        click.echo(f"{name}: the changes of {victim} are given up, its resync begins")
    report = _follow(client, name) if follow else _report(client, name)
    elsewhere = bundle and changed and victim != plan.node
    if elsewhere and follow:
        # Nothing differs any more, so that the other node's daemon has the answer at once.
        saved = client.call("resource.loss", {"name": name}, BothLosses).sides[1].bundle
    if not as_json and saved is not None:
        click.echo(f"  saved on {victim} in {printable(saved)}")
    elif not as_json and elsewhere:
        click.echo(f"  saved on {victim}: `blockpair bundle list {name}` there shows the file")
    if as_json:
        print_json({"name": name, "victim": victim, "saved": bundle, "bundle": saved, "resource": report})


def given_up(plan: Plan, victim: str, *, bundle: bool) -> str:
    """The question: what ``victim`` loses. Raises `BlockpairError` where nothing is to be decided."""
    from blockpair.cli.plan_text import amount

    if plan.decision is None or plan.other is None:
        raise BlockpairError(
            ErrorKind.FAILED,
            f"{plan.peer} cannot be asked: {plan.problem}",
            f"both nodes are needed: see that blockpaird runs on {plan.peer} with {plan.resource} up",
        )
    side = {node.node: node for node in (plan.own, plan.other)}.get(victim)
    if side is None:
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"{victim!r} is no node of {plan.resource}",
            f"its nodes are: {plan.node}, {plan.peer}",
        )
    if plan.decision.direction != "split-brain":
        raise BlockpairError(
            ErrorKind.FAILED,
            f"{plan.resource} is in no split brain: there is nothing to give up"
            + (f" ({plan.decision.reason})" if plan.decision.reason else ""),
            f"what a connect would do: blockpair plan {plan.resource}",
        )
    if side.role == "Primary" or side.resuming:
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{victim} is Primary of {plan.resource}: its data is in use, and cannot be given up",
            f"stop what uses it, then on {victim}: blockpair demote {plan.resource}",
        )
    how = (
        f"saved in a bundle on {victim} first"
        if bundle
        else "NOT saved anywhere (--no-bundle): gone for good"
    )
    return f"{plan.resource}: {victim} would lose its changes, {amount(side.marked)}; {how}"


def _bundles(client: Client, name: str) -> list[str]:
    from blockpair.bundles import Entry

    return [entry.path for entry in client.call("bundle.list", {"resource": name}, list[Entry])]


def _report(client: Client, name: str) -> ResourceReport:
    from blockpair.status.report import ResourceReport

    return client.call("resource.status", {"name": name}, ResourceReport)


def _follow(client: Client, name: str) -> ResourceReport:
    from blockpair.cli.progress import show

    return show(lambda: _report(client, name), None, _POLL_SECONDS, time.monotonic)
