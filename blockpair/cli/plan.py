"""``blockpair plan``."""

from __future__ import annotations

import click

from blockpair.cli.output import daemon, json_option, name_argument, print_error, print_json
from blockpair.errors import BlockpairError, ErrorKind


@click.command("plan", short_help="What a connect of NAME would do now.")
@name_argument
@click.option("--peer", metavar="NODE", help="The peer to ask; by default the first.")
@json_option
@click.pass_obj
def command(directory: str | None, name: str, peer: str | None, as_json: bool) -> int:
    """What a connect of NAME would do now: which copy would be synced from, how much, and what would be lost.

    It asks the peer, also one that is StandAlone, and decides as a handshake does. Nothing is done.

    Ends with 0; with 4 if the nodes would not come together, or only by giving up changes (split brain, a
    refusal); with 1 if the peer cannot be asked, after showing this node's side.

    \b
    Examples:
      blockpair plan r0
      blockpair plan r0 --json | jq .decision
    """
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
