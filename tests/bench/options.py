"""What every race's command line has."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from .host import BenchFailed, enter_private_network


def parser(description: str, runs: int, size_mib: int) -> argparse.ArgumentParser:
    """A command line with the common options."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument(
        "--runs", type=positive, default=runs, metavar="N", help="runs of each contender, interleaved"
    )
    options.add_argument(
        "--size", type=positive, default=size_mib, metavar="MIB", help="size of each copy in MiB"
    )
    options.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where the copies lie; tmpfs by default"
    )
    options.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return options


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def race(run: Callable[[Console, bool], int]) -> None:
    """Runs a race, in a network namespace of its own if allowed (it is told), and exits with its code."""
    # Ended by a time limit, it still takes its servers and gigabytes along.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))
    private = enter_private_network()
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    errors = Console(stderr=True)
    if not private:
        errors.print(
            "[yellow]no right to an own network namespace: traffic counters may include strangers[/]"
        )
    try:
        sys.exit(run(console, private))
    except BenchFailed as failure:
        errors.print(f"[red]failed:[/] {escape(str(failure))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
