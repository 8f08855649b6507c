"""The program ``blockpair``: the group of commands, and how each ending becomes an exit code."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from blockpair import __version__
from blockpair.cli.output import print_error, report_crash
from blockpair.errors import BlockpairError, ErrorKind, ExitCode, nearest

_COMMANDS = (
    "create",
    "delete",
    "up",
    "down",
    "connect",
    "disconnect",
    "promote",
    "demote",
    "switchover",
    "warm-up",
    "sync",
    "verify",
    "status",
    "wait",
    "may-stop",
    "history",
    "events",
    "notify",
    "health",
    "doctor",
    "report",
    "audit",
    "plan",
    "resolve",
    "metadata",
    "bundle",
    "config",
    "service",
    "cluster",
    "witness",
    "fence",
    "raid",
)


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            if near := nearest(cmd_name, _COMMANDS):
                ctx.fail(f"there is no command {cmd_name!r}; did you mean {near!r}?")
            return None
        command = importlib.import_module(f"blockpair.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="blockpair")
@click.option(
    "--dir", "directory", metavar="DIR", help="The node whose files are below DIR (default: BLOCKPAIR_DIR)."
)
@click.pass_context
def group(ctx: click.Context, directory: str | None) -> None:
    """Two servers, one disk: a block device that lives on two nodes.

    \b
    Exit codes: 0 fine, 1 failed, 2 usage, 3 refused because it would be
    unsafe, 4 degraded: something needs attention, 5 no daemon.

    \b
    Examples:
      blockpair status          # who is Primary, and what to do next
      blockpair doctor          # is everything as it should be
      blockpair plan r0         # what a connect would do
      blockpair events          # what happened
    """
    ctx.obj = directory


def run(arguments: list[str]) -> int:  # noqa: PLR0911 - an ending, a line
    """Carry out a command line and return its exit code; errors are told on standard error."""
    as_json = "--json" in arguments
    try:
        result = group.main(arguments, prog_name="blockpair", standalone_mode=False)
        return result if isinstance(result, int) else int(ExitCode.FINE)
    except BlockpairError as error:
        print_error(error, as_json=as_json)
        return int(error.exit_code)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.UsageError as error:
        if as_json:
            help_hint = "see --help"
            print_error(BlockpairError(ErrorKind.USAGE, error.format_message(), help_hint), as_json=True)
        else:
            error.show()
        return int(ExitCode.USAGE)
    except click.ClickException as error:
        print_error(BlockpairError(ErrorKind.FAILED, error.format_message()), as_json=as_json)
        return int(ExitCode.FAILED)
    except (click.Abort, KeyboardInterrupt):
        print("blockpair: interrupted", file=sys.stderr)
        return int(ExitCode.FAILED)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        return int(ExitCode.FAILED)
    except Exception as error:
        report_crash(error, as_json=as_json)
        return int(ExitCode.FAILED)


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
