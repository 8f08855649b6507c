"""A sparse resource of 1 TiB: how long `up` takes, and the daemons' memory when all of it is out of sync."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from rich.console import Console

from . import options
from .host import memory_bytes, wait_for, wait_until_quiet, workplace
from .pair import RESOURCE, Pair
from .report import Figure, Report, Target

UP_SECONDS_MAX = 1.0
MEMORY_BYTES_MAX = 100 << 20
# Far enough into the sync that its buffers and queues have their full size.
SYNCED_BYTES = 8 << 30


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=5, size_mib=1 << 20)
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


def race(console: Console, arguments: argparse.Namespace) -> int:
    size = arguments.size << 20
    report = Report("large-resource", f"A sparse resource of {arguments.size / 1024:,.0f} GiB")
    up_seconds: list[float] = []
    # The files are holes; metadata needs a bit a block and peer.
    with workplace(arguments.folder, 512 << 20) as folder:
        pair = Pair(folder, sparse(folder / "near.img", size), sparse(folder / "far.img", size))
        with pair.daemons():
            pair.create()
            idle = memory(pair)
            for _ in range(arguments.runs):
                wait_until_quiet(3)
                up_seconds.append(pair.a.run("up", RESOURCE))
                pair.a.run("down", RESOURCE)
            pair.up()
            after_up = memory(pair)
            pair.a.run("sync", RESOURCE, "--from", "a")
            wait_for(
                f"the full sync has passed {SYNCED_BYTES >> 30} GiB",
                120,
                lambda: synced(pair) >= min(SYNCED_BYTES, size),
            )
            syncing = memory(pair)
            peak = [memory_bytes(node.pid, "VmHWM") for node in pair.nodes]
            pair.down()
    report.figures.append(Figure("blockpair", "blockpair up, command included", "s", up_seconds))
    for what, values in (
        ("daemon's memory, nothing up", idle),
        ("daemon's memory, connected, all out of sync", after_up),
        ("daemon's memory, in the full sync", syncing),
        ("daemon's memory, highest", peak),
    ):
        report.figures.append(Figure("blockpair a, b", what, "MiB", [value / (1 << 20) for value in values]))
    report.targets.append(Target("blockpair up", "s", median(up_seconds), UP_SECONDS_MAX, at_least=False))
    report.targets.append(
        Target("daemon's memory", "MiB", max(peak) / (1 << 20), MEMORY_BYTES_MAX / (1 << 20), at_least=False)
    )
    return report.finish(console, arguments.check)


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as image:
        image.truncate(size)
    return path


def memory(pair: Pair) -> list[int]:
    return [memory_bytes(node.pid) for node in pair.nodes]


def synced(pair: Pair) -> int:
    """Bytes that the present or the last resync has dealt with."""
    peer = pair.a.peer()
    resync = peer["resync"] or peer["last_resync"]
    return int(resync["done_bytes"]) if resync else 0


if __name__ == "__main__":
    main()
