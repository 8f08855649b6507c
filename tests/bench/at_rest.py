"""What two connected nodes cost while nothing is written, and how long `blockpair status` takes."""

from __future__ import annotations

import argparse
import time

from rich.console import Console

from . import options
from .host import cpu_seconds, wait_until_quiet, workplace
from .pair import RESOURCE, Pair
from .report import Figure, Report


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=15, size_mib=64)
    command_line.add_argument("--seconds", type=options.positive, default=20, help="length of the rest")
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


def race(console: Console, arguments: argparse.Namespace) -> int:
    size = arguments.size << 20
    report = Report("at-rest", f"Connected and Primary, nothing written for {arguments.seconds} s")
    with workplace(arguments.folder, 2 * size) as folder:
        copies = folder / "near.img", folder / "far.img"
        for copy in copies:
            with copy.open("wb") as image:
                image.truncate(size)
        pair = Pair(folder, *copies)
        with pair.daemons():
            pair.create()
            pair.up()
            pair.sync_from_a()
            with pair.running():
                busy = wait_until_quiet(3)
                before = [cpu_seconds(node.pid) for node in pair.nodes]
                began = time.monotonic()
                # Not to wait for something: the rest itself is what is measured.
                time.sleep(arguments.seconds)
                elapsed = time.monotonic() - began
                spent = [cpu_seconds(node.pid) - cpu for node, cpu in zip(pair.nodes, before, strict=True)]
                seconds = [pair.a.run("status", RESOURCE) for _ in range(arguments.runs)]
    report.figures.append(
        Figure("blockpair a, b", "a daemon's processor", "%", [100 * cpu / elapsed for cpu in spent])
    )
    report.figures.append(
        Figure("blockpair", "blockpair status, its process included", "ms", [1000 * one for one in seconds])
    )
    report.notes.append(f"the machine was {busy:.0%} busy before")
    return report.finish(console, arguments.check)


if __name__ == "__main__":
    main()
