"""Replicated writes through a Unix socket, both nodes on this machine: blockpair against qemu's quorum."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from . import fio, images, options
from .host import cpu_seconds, loopback_bytes, require, wait_until_quiet, workplace
from .pair import Pair
from .peers import Contender, Nbdkit, QemuNbd, Quorum, build_shim
from .report import Figure, Report, Target

JOBS = (
    fio.Job("4 KiB random writes, depth 1", "randwrite", 4096, 1),
    fio.Job("4 KiB random writes, depth 32", "randwrite", 4096, 32),
    fio.Job("128 KiB sequential writes, depth 8", "write", 131072, 8),
    fio.Job("4 KiB random write + FLUSH, depth 1", "randwrite", 4096, 1, flush=True),
)
RACED = JOBS[1]
RATIO_MIN = 2.0
# Above this share of foreign work a figure is called noisy.
BUSY_MAX = 0.1


@dataclass
class Laps:
    """All runs of one contender in one job."""

    outcomes: list[fio.Outcome] = field(default_factory=list)
    cpu_us_per_operation: list[float] = field(default_factory=list)
    wire_bytes_per_operation: list[float] = field(default_factory=list)
    busy_before: list[float] = field(default_factory=list)

    def figure(self, contender: str, job: fio.Job) -> Figure:
        return Figure(
            contender,
            job.name,
            "IOPS",
            [outcome.iops for outcome in self.outcomes],
            {
                "MB/s": median(outcome.bytes_per_second for outcome in self.outcomes) / 1e6,
                "p50 µs": median(outcome.p50_us for outcome in self.outcomes),
                "p99 µs": median(outcome.p99_us for outcome in self.outcomes),
                "CPU µs/write": median(self.cpu_us_per_operation),
                "wire B/write": median(self.wire_bytes_per_operation),
            },
        )


Results = dict[tuple[str, str], Laps]


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=3, size_mib=1024)
    command_line.add_argument("--seconds", type=float, default=4, help="length of each run")
    command_line.add_argument(
        "--references", action="store_true", help="also run servers that do not replicate"
    )
    command_line.add_argument(
        "--peers-only", action="store_true", help="leave blockpair out (no targets then)"
    )
    arguments = command_line.parse_args()
    options.race(lambda console, private: race(console, arguments, private))


def race(console: Console, arguments: argparse.Namespace, private: bool) -> int:
    require("fio")
    size = arguments.size << 20
    # At least two pairs of copies; references share one more.
    with workplace(arguments.folder, 5 * size) as folder, contextlib.ExitStack() as stack:
        report = Report(
            "replicated-writes", f"Replicated writes, {arguments.size} MiB, copies in {arguments.folder}"
        )
        contenders = prepare(console, folder, arguments, stack, report)
        results = laps(console, contenders, arguments)
    summarise(report, contenders, results, private)
    return report.finish(console, arguments.check)


def prepare(
    console: Console, folder: Path, arguments: argparse.Namespace, stack: contextlib.ExitStack, report: Report
) -> list[Contender]:
    """All contenders with their files filled; the peer to beat first, blockpair second."""
    size = arguments.size << 20
    console.print("[dim]filling the copies[/]")

    def two_copies(name: str) -> tuple[Path, Path]:
        near, far = folder / f"{name}-near.img", folder / f"{name}-far.img"
        images.fill_randomly(near, size)
        images.copy(near, far)
        return near, far

    shim = build_shim(folder)
    if shim is None:
        report.notes.append(
            "no C compiler: qemu ran with Nagle's algorithm on, which slows it down; not a fair race"
        )
    contenders: list[Contender] = [Quorum(folder, *two_copies("quorum"), shim)]
    if not arguments.peers_only:
        pair = Pair(folder, *two_copies("pair"))
        stack.enter_context(pair.daemons())
        pair.create()
        pair.up()
        pair.sync_from_a()
        pair.down()
        contenders.append(pair)
    if arguments.references:
        image = folder / "reference.img"
        images.fill_randomly(image, size)
        contenders += [Nbdkit(folder, image), QemuNbd(folder, image)]
    return contenders


def laps(console: Console, contenders: Sequence[Contender], arguments: argparse.Namespace) -> Results:
    """Every contender's runs. The order alternates, so that a drifting machine favours nobody."""
    results: Results = {(who.name, job.name): Laps() for who in contenders for job in JOBS}
    for run in range(arguments.runs):
        for who in contenders if run % 2 == 0 else list(reversed(contenders)):
            with who.running() as export:
                for job in JOBS:
                    busy = wait_until_quiet(3)
                    cpu, wire = sum(map(cpu_seconds, export.pids)), loopback_bytes()
                    outcome = fio.run(job, export.uri, arguments.size << 20, arguments.seconds)
                    cpu, wire = sum(map(cpu_seconds, export.pids)) - cpu, loopback_bytes() - wire
                    lap = results[who.name, job.name]
                    lap.outcomes.append(outcome)
                    lap.busy_before.append(busy)
                    lap.cpu_us_per_operation.append(cpu / outcome.operations * 1e6)
                    lap.wire_bytes_per_operation.append(wire / outcome.operations)
                    console.print(
                        f"  [dim]run {run + 1}: {who.name}, {job.name}: {outcome.iops:,.0f} IOPS"
                        f"{f'; machine was {busy:.0%} busy before' if busy > BUSY_MAX else ''}[/]",
                        highlight=False,
                    )
            if len(who.copies) == 2:
                images.must_be_identical(who.name, *who.copies)
    return results


def summarise(report: Report, contenders: Sequence[Contender], results: Results, private: bool) -> None:
    """Figures, ratios and the target. A ratio pairs the runs next to each other."""
    for job in JOBS:
        for who in contenders:
            report.figures.append(results[who.name, job.name].figure(who.name, job))
    if not private:
        report.notes.append("not in an own network namespace: wire B/write also counts strangers' traffic")
    busy = max(share for laps_ in results.values() for share in laps_.busy_before)
    if busy > BUSY_MAX:
        report.notes.append(
            f"others kept the machine up to {busy:.0%} busy before a run: only ratios mean something"
        )
    report.notes.append("copies compared after every run: identical")
    ours = next((who for who in contenders if isinstance(who, Pair)), None)
    if ours is None:
        return
    peer = contenders[0]
    for job in JOBS:
        pairs = zip(results[ours.name, job.name].outcomes, results[peer.name, job.name].outcomes, strict=True)
        ratio = Figure(peer.name, job.name, "x", [mine.iops / theirs.iops for mine, theirs in pairs])
        report.ratios.append(ratio)
        if job is RACED:
            report.targets.append(Target(f"{job.name}, times {peer.name}", "x", ratio.median, RATIO_MIN))


if __name__ == "__main__":
    main()
