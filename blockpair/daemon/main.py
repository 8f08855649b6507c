"""The program ``blockpaird``."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from dataclasses import replace

import click

from blockpair import __version__
from blockpair.config.locations import locations
from blockpair.config.node import LogFormat, LogLevel, read_node
from blockpair.errors import BlockpairError, ExitCode


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="blockpaird")
@click.option(
    "--dir", "directory", metavar="DIR", help="Keep everything of this node below DIR (BLOCKPAIR_DIR)."
)
@click.option("--no-kernel-device", is_flag=True, help="Offer the NBD sockets only, no /dev/blockpair/NAME.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="Instead of [log] format.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Instead of [log] level."
)
def command(
    directory: str | None, no_kernel_device: bool, log_format: LogFormat | None, log_level: LogLevel | None
) -> None:
    """The daemon of a blockpair node. It stays in the foreground and logs to standard error.

    \b
    Examples:
      blockpaird
      BLOCKPAIR_DIR=/tmp/node-a blockpaird --log-format console
    """
    from blockpair.daemon.app import serve
    from blockpair.service import logs

    places = locations(directory=directory)
    node = read_node(places.node_file)
    if no_kernel_device:
        node = replace(node, kernel_device="off")
    # Where the service manager's watchdog ends a daemon that hangs, its log says where it hung.
    faulthandler.enable()
    logs.set_up(log_format or node.log_format, log_level or node.log_level)
    asyncio.run(serve(node, places))


def main() -> None:
    """Run the daemon; its exit code is that of `ExitCode`."""
    try:
        command(standalone_mode=False)
    except BlockpairError as error:
        print(f"blockpaird: {error.message}\n  remedy: {error.remedy}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(int(ExitCode.FAILED))


if __name__ == "__main__":
    main()
