"""``blockpair plan``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_error, print_json
from blockpair.errors import BlockpairError, ErrorKind, ExitCode

_WISHES = ("promote", "demote", "hand-over", "take-over", "follow", "stop")


@click.command("plan", short_help="What a connect, or a promotion, of NAME would do.")
@name_argument
@click.argument("wish", metavar="[WISH]", required=False, type=click.Choice(_WISHES))
@click.option("--kill-users", is_flag=True, help="With demote and hand-over: as if that were given.")
@click.option("--peer", metavar="NODE", help="The peer to ask; by default the first.")
@json_option
@click.pass_obj
def command(
    directory: str | None, name: str, wish: str | None, *, kill_users: bool, peer: str | None, as_json: bool
) -> int:
    """What a connect of NAME would do now: which copy would be synced from, how much, and what would be lost.
    With a WISH (promote, demote, hand-over, take-over, follow, stop): the steps of this node's service,
    from what is up now, with what would undo each, and whether a promotion would be refused, as far as this
    node knows. Nothing is done.

    Without a WISH it asks the peer, also one that is StandAlone, and decides as a handshake does.

    Ends with 0; with 4 if the nodes would not come together, or only by giving up changes (split brain, a
    refusal); with 1 if the peer cannot be asked, after showing this node's side.

    \b
    Examples:
      blockpair plan r0
      blockpair plan r0 --json | jq .decision
      blockpair plan r0 promote
    """
    if wish is not None:
        from blockpair.cli.service_plan import show

        if peer is not None:
            raise BlockpairError(ErrorKind.USAGE, "--peer does not go with a wish", "leave one of them out")
        show(directory, name, wish, kill_users=kill_users, as_json=as_json)
        return int(ExitCode.FINE)
    if kill_users:
        raise BlockpairError(
            ErrorKind.USAGE, "--kill-users goes with demote and hand-over", "name one of them"
        )
    from blockpair.cli.plan_text import screen
    from blockpair.status.plan import Plan, exit_code

    with daemon(directory) as client:
        plan = client.call("resource.plan", {"name": name, "peer": peer}, Plan)
    if as_json:
        print_json(plan)
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for part in screen(plan):
            console.print(part, soft_wrap=isinstance(part, str), markup=False)
    if plan.problem is not None:
        error = BlockpairError(
            ErrorKind.FAILED,
            f"{plan.peer} cannot be asked, so what a connect would do is not known: {plan.problem}",
            f"see that {plan.peer} runs, blockpaird on it too, and that {name} is up there",
        )
        print_error(error, as_json=as_json)
    return int(exit_code(plan))
