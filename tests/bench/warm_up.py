"""What reading ahead is worth: reads in the first seconds after a take-over, with it and without."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tests.e2e.nbd_client import NbdClient

from . import images, options
from .host import BenchFailed, Server, require, unix_listening, wait_until_quiet, workplace
from .pair import RESOURCE, Pair
from .report import Figure, Report, Target

BLOCK = 4096
HOT_BLOCKS = 800
# Of an application that reads past the page cache, as databases and virtual machines do.
HOT_SHARE = 0.9
SEED = 1
# What is hot is told every five seconds.
LEARN_S = 7.0
WITHOUT, AT_TAKE_OVER, BEFORE = "without", "at the take-over", "before a switchover"
SPANS = (1.0, 10.0)
RATIO_MIN = 5.0


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=3, size_mib=512)
    command_line.add_argument(
        "--delay", type=options.positive, default=5, help="ms that a read of the disk takes"
    )
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


@contextlib.contextmanager
def slow_disk(image: Path, folder: Path, delay_ms: int) -> Iterator[Path]:
    """`image` as a file whose reads take so long, one after the other, as a disk's with one arm."""
    socket, disk = folder / "slow.sock", folder / "slow" / "disk"
    disk.parent.mkdir()
    serve: list[str | Path] = [
        *("nbdkit", "-f", "-U", socket, "--filter=noparallel", "--filter=delay", "file", image),
        *("serialize=all-requests", f"rdelay={delay_ms}ms"),
    ]
    with Server(serve, folder / "nbdkit.log", lambda: unix_listening(socket)):
        mount: list[str | Path] = ["nbdfuse", disk, f"nbd+unix:///?socket={socket}"]
        with Server(mount, folder / "nbdfuse.log", disk.exists):
            try:
                yield disk
            finally:
                subprocess.run(["umount", "--lazy", disk.parent], check=False)


class Application:
    """Reads single blocks, one after the other: mostly some that are hot, scattered over the device."""

    def __init__(self, size: int) -> None:
        self._random = random.Random(SEED)
        self._blocks = range(size // BLOCK)
        self._hot = self._random.sample(self._blocks, HOT_BLOCKS)
        # The second is read half as often as the first, the third a third as often: Zipf's law.
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, HOT_BLOCKS + 1)))

    def read(self, socket: Path, seconds: float) -> list[tuple[float, float]]:
        """For each read when it began, from the first on, and what it took; seconds."""
        taken = []
        with NbdClient(socket, RESOURCE) as client:
            start = began = time.perf_counter()
            while began - start < seconds:
                if self._random.random() < HOT_SHARE:
                    (block,) = self._random.choices(self._hot, cum_weights=self._weights)
                else:
                    block = self._random.choice(self._blocks)
                client.read(block * BLOCK, BLOCK)
                ended = time.perf_counter()
                taken.append((began - start, ended - began))
                began = ended
        return taken


@dataclass
class Laps:
    """Of all runs, by contender and span: median and p99 of the reads, in microseconds, and their number."""

    medians: dict[tuple[str, float], list[float]] = field(default_factory=dict)
    p99s: dict[tuple[str, float], list[float]] = field(default_factory=dict)
    counts: dict[tuple[str, float], list[float]] = field(default_factory=dict)

    def add(self, contender: str, reads: list[tuple[float, float]]) -> None:
        for span in SPANS:
            taken = sorted(took * 1e6 for began, took in reads if began < span)
            for kept, value in (
                (self.medians, taken[len(taken) // 2]),
                (self.p99s, taken[len(taken) * 99 // 100]),
                (self.counts, float(len(taken))),
            ):
                kept.setdefault((contender, span), []).append(value)


def race(console: Console, arguments: argparse.Namespace) -> int:
    require("nbdkit", "nbdfuse")
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        raise BenchFailed("a slow disk of our own is mounted: that needs root and /dev/fuse")
    size = arguments.size << 20
    report = Report(
        "warm-up",
        f"After a take-over: reads of {BLOCK >> 10} KiB, depth 1, {HOT_SHARE:.0%} of {HOT_BLOCKS} by Zipf"
        f" out of {arguments.size} MiB; a read of the disk takes {arguments.delay} ms",
    )
    laps = Laps()
    with workplace(arguments.folder, 2 * size) as folder, contextlib.ExitStack() as stack:
        near, far = folder / "near.img", folder / "far.img"
        images.fill_randomly(near, size)
        images.copy(near, far)
        disk = stack.enter_context(slow_disk(far, folder, arguments.delay))
        pair = Pair(folder / "nodes", near, disk)
        stack.enter_context(pair.daemons())
        pair.create()
        pair.up()
        pair.sync_from_a()
        pair.up_to_date()
        pair.a.run("promote", RESOURCE)
        application = Application(size)
        contenders = (WITHOUT, AT_TAKE_OVER, BEFORE)
        for run, contender in itertools.product(range(arguments.runs), contenders):
            reads = lap(pair, contender, application)
            laps.add(contender, reads)
            medians = ", ".join(f"{laps.medians[contender, span][-1]:,.0f}" for span in SPANS)
            console.print(f"  [dim]run {run + 1}: {contender}: {medians} µs[/]", highlight=False)
    summarise(report, laps)
    return report.finish(console, arguments.check)


def lap(pair: Pair, contender: str, application: Application) -> list[tuple[float, float]]:
    """`a` is Primary and read, `b` takes over and is read; then all is as before."""
    pair.b.run("down", RESOURCE)
    allow(pair, contender)
    pair.b.run("up", RESOURCE)
    pair.up_to_date()
    application.read(pair.a.socket, LEARN_S)
    wait_until_quiet(1)
    if contender == BEFORE:
        pair.b.run("warm-up", RESOURCE)
        pair.a.run("demote", RESOURCE)
        pair.b.run("promote", RESOURCE)
    else:
        pair.a.kill()
        pair.b.run("promote", RESOURCE, "--force", "--yes")
    reads = application.read(pair.b.socket, SPANS[-1])
    answered = pair.b.engine()["warm_up"]["answered_reads"]
    if (answered > 0) != (contender != WITHOUT):
        raise BenchFailed(f"{contender}: {answered} reads were answered from memory")
    if contender != BEFORE:
        pair.a.start()
    pair.up_to_date()
    pair.b.run("demote", RESOURCE)
    pair.a.run("promote", RESOURCE)
    return reads


def allow(pair: Pair, contender: str) -> None:
    """Has `b` read ahead, or not: from its next `up` on."""
    pair.b.configure("warm_up", "0" if contender == WITHOUT else "64M")


def summarise(report: Report, laps: Laps) -> None:
    """Figures, ratios and targets."""
    for span in SPANS:
        what = "the first second" if span == 1 else f"the first {span:.0f} s"
        for contender in (WITHOUT, AT_TAKE_OVER, BEFORE):
            of = (contender, span)
            report.figures += [
                Figure(contender, f"{what}, median", "µs", laps.medians[of]),
                Figure(contender, f"{what}, p99", "µs", laps.p99s[of]),
                Figure(contender, f"{what}, reads", "", laps.counts[of]),
            ]
        for contender in (AT_TAKE_OVER, BEFORE):
            pairs = zip(laps.medians[WITHOUT, span], laps.medians[contender, span], strict=True)
            ratio = Figure(
                contender, f"{what}, median without it", "x", [one / other for one, other in pairs]
            )
            report.ratios.append(ratio)
    for ratio in report.ratios[-2:]:
        report.targets.append(
            Target(f"{ratio.what}, by that {ratio.contender}", "x", ratio.median, RATIO_MIN)
        )
    report.notes.append("what is not hot comes from the disk in any case: one read in ten, and so the p99")


if __name__ == "__main__":
    main()
