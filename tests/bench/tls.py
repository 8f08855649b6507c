"""What TLS between the nodes costs: the same daemons with it, and without it on loopback."""

from __future__ import annotations

import argparse
import shutil
from statistics import median

from rich.console import Console

from . import fio, images, options
from .host import BenchFailed, cpu_seconds, require, wait_until_quiet, workplace
from .pair import Pair
from .report import Figure, Report, Target

JOBS = (
    fio.Job("4 KiB random writes, depth 1", "randwrite", 4096, 1),
    fio.Job("4 KiB random writes, depth 32", "randwrite", 4096, 32),
    fio.Job("128 KiB sequential writes, depth 8", "write", 131072, 8),
)
SYNC = "full sync, everything different"
PLAIN, TLS = "without TLS", "with TLS"
# Encryption and decryption of 4 KiB are a few microseconds; where bytes are all there is to do, they show.
SMALL_MIN = 0.75
BULK_MIN = 0.5
WARM_UP_S = 0.5


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=5, size_mib=512)
    command_line.add_argument("--seconds", type=float, default=2, help="length of each run of writes")
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


class Laps:
    """All runs: rates and processor time, by contender and what was done."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, str], list[float]] = {}
        self.more: dict[tuple[str, str], list[float]] = {}
        self.ciphers: set[str] = set()

    def add(self, contender: str, what: str, rate: float, cpu_us: float) -> None:
        self.rates.setdefault((contender, what), []).append(rate)
        self.more.setdefault((contender, what), []).append(cpu_us)


def race(console: Console, arguments: argparse.Namespace) -> int:
    require("fio")
    size = arguments.size << 20
    report = Report("tls", f"TLS between the nodes, {arguments.size} MiB, copies in {arguments.folder}")
    laps = Laps()
    with workplace(arguments.folder, 2 * size + (64 << 20)) as folder:
        source, target = folder / "source.img", folder / "target.img"
        images.fill_randomly(source, size)
        for run in range(arguments.runs):
            for contender in (PLAIN, TLS) if run % 2 == 0 else (TLS, PLAIN):
                images.copy(source, target, shift=1 + run)
                place = folder / "nodes"
                lap(
                    Pair(place, source, target, contender, tls=contender == TLS),
                    size,
                    arguments.seconds,
                    laps,
                )
                shutil.rmtree(place)
                images.must_be_identical(contender, source, target)
                done = ", ".join(
                    f"{rates[-1]:,.4g}" for (name, _), rates in laps.rates.items() if name == contender
                )
                console.print(f"  [dim]run {run + 1}: {contender}: {done}[/]", highlight=False)
    summarise(report, laps)
    return report.finish(console, arguments.check)


def lap(pair: Pair, size: int, seconds: float, laps: Laps) -> None:
    """A full sync on fresh metadata, then the writes."""
    with pair.daemons():
        pair.create()
        pair.up()
        wait_until_quiet(3)
        cpu = sum(cpu_seconds(node.pid) for node in pair.nodes)
        pair.sync_from_a()
        pair.up_to_date()
        cpu = sum(cpu_seconds(node.pid) for node in pair.nodes) - cpu
        peer = pair.a.peer()
        if peer["tls"] != (pair.name == TLS):
            raise BenchFailed(f"{pair.name}: the status says that tls is {peer['tls']}")
        if peer["cipher"] is not None:
            laps.ciphers.add(peer["cipher"])
        last = peer["last_resync"]
        if last is None or not last["finished"] or last["total_bytes"] != size:
            raise BenchFailed(f"{pair.name}: there was no finished resync of {size} bytes: {last}")
        laps.add(pair.name, SYNC, size / float(last["elapsed_seconds"]) / 1e9, cpu / (size >> 20) * 1e6)
        pair.down()
        with pair.running() as export:
            for job in JOBS:
                wait_until_quiet(3)
                fio.run(job, export.uri, size, WARM_UP_S)
                cpu = sum(map(cpu_seconds, export.pids))
                outcome = fio.run(job, export.uri, size, seconds)
                cpu = sum(map(cpu_seconds, export.pids)) - cpu
                laps.add(pair.name, job.name, outcome.iops, cpu / outcome.operations * 1e6)


def summarise(report: Report, laps: Laps) -> None:
    """Figures, ratios and targets."""
    for what in (*(job.name for job in JOBS), SYNC):
        unit, cost = ("GB/s", "CPU µs/MiB") if what == SYNC else ("IOPS", "CPU µs/write")
        report.figures += [
            Figure(name, what, unit, laps.rates[name, what], {cost: median(laps.more[name, what])})
            for name in (TLS, PLAIN)
        ]
        pairs = zip(laps.rates[TLS, what], laps.rates[PLAIN, what], strict=True)
        ratio = Figure(PLAIN, what, "x", [one / other for one, other in pairs])
        report.ratios.append(ratio)
        bound = SMALL_MIN if what in (JOBS[0].name, JOBS[1].name) else BULK_MIN
        report.targets.append(Target(f"{what}, of what it is without TLS", "x", ratio.median, bound))
    report.notes.append(
        f"cipher: {', '.join(sorted(laps.ciphers))}; copies compared after every run: identical"
    )


if __name__ == "__main__":
    main()
