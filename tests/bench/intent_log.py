"""What the write-intent log costs once it is warm: the same daemons with the log, and with it off."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
from pathlib import Path
from statistics import median

from rich.console import Console

from . import fio, images, options
from .host import BenchFailed, cpu_seconds, require, wait_until_quiet, workplace
from .pair import Pair
from .report import Figure, Report, Target

ROOT = Path(__file__).resolve().parents[2]
JOBS = (
    fio.Job("4 KiB random writes, depth 1", "randwrite", 4096, 1),
    fio.Job("4 KiB random writes, depth 32", "randwrite", 4096, 32),
    fio.Job("128 KiB sequential writes, depth 8", "write", 131072, 8),
)
# Two pairs of each: where a file happens to lie in memory makes more of a difference than the log.
CONTENDERS: tuple[tuple[str, dict[str, str]], ...] = 2 * (
    ("with the log", {}),
    ("without", {"BLOCKPAIR_PLANT": "IntentSkipped"}),
)
RATIO_MIN = 0.95
WARM_UP_S = 1.0


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=5, size_mib=512)
    command_line.add_argument("--seconds", type=float, default=2, help="length of each run")
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


def race(console: Console, arguments: argparse.Namespace) -> int:
    require("fio")
    size = arguments.size << 20
    report = Report("intent-log", f"The write-intent log, {arguments.size} MiB, copies in {arguments.folder}")
    iops: dict[tuple[str, str], list[float]] = {}
    cost: dict[tuple[str, str], list[float]] = {}
    with workplace(arguments.folder, 9 * size) as folder, contextlib.ExitStack() as stack:
        package = build(console, folder)
        pairs = []
        for index, (name, planted) in enumerate(CONTENDERS):
            place = folder / f"pair{index}"
            place.mkdir()
            copies = place / "near.img", place / "far.img"
            images.fill_randomly(copies[0], size)
            images.copy(*copies)
            pair = Pair(place, *copies, name, {"PYTHONPATH": str(package), **planted})
            stack.enter_context(pair.daemons())
            pair.create()
            pair.up()
            pair.sync_from_a()
            pair.down()
            pairs.append(pair)
        for run in range(arguments.runs):
            for pair in pairs if run % 2 == 0 else pairs[::-1]:
                with pair.running() as export:
                    for job in JOBS:
                        wait_until_quiet(3)
                        # No pause after it: extents that rest for two seconds leave the log.
                        fio.run(job, export.uri, size, WARM_UP_S)
                        cpu = sum(map(cpu_seconds, export.pids))
                        outcome = fio.run(job, export.uri, size, arguments.seconds)
                        cpu = sum(map(cpu_seconds, export.pids)) - cpu
                        cost.setdefault((pair.name, job.name), []).append(cpu / outcome.operations * 1e6)
                        iops.setdefault((pair.name, job.name), []).append(outcome.iops)
                        console.print(
                            f"  [dim]run {run + 1}: {pair.name}, {job.name}: {outcome.iops:,.0f} IOPS[/]",
                            highlight=False,
                        )
    for job in JOBS:
        with_log, without = iops["with the log", job.name], iops["without", job.name]
        report.figures += [
            Figure(name, job.name, "IOPS", done, {"CPU µs/write": median(cost[name, job.name])})
            for name, done in (("with the log", with_log), ("without", without))
        ]
        ratios = [one / other for one, other in zip(with_log, without, strict=True)]
        report.ratios.append(Figure("without", job.name, "x", ratios))
        ratio = median(with_log) / median(without)
        report.targets.append(Target(f"{job.name}, median by median without the log", "x", ratio, RATIO_MIN))
    report.notes.append("both from one build with the feature `faults`, in which the log can be switched off")
    return report.finish(console, arguments.check)


def build(console: Console, folder: Path) -> Path:
    """The package with an engine that can go without its log; never installed."""
    console.print("[dim]building the engine with the feature `faults`[/]")
    target = ROOT / "engine/target/faults"
    done = subprocess.run(
        [
            *("cargo", "build", "--quiet", "--release", "--locked", "--lib", "--features", "python,faults"),
            *("--manifest-path", str(ROOT / "engine/Cargo.toml"), "--target-dir", str(target)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchFailed(f"the engine does not build: {done.stderr.strip()[-600:]}")
    package = folder / "package"
    shutil.copytree(
        ROOT / "blockpair", package / "blockpair", ignore=shutil.ignore_patterns("_engine*.so", "__pycache__")
    )
    shutil.copy(target / "release/lib_engine.so", package / "blockpair/_engine.abi3.so")
    return package


if __name__ == "__main__":
    main()
