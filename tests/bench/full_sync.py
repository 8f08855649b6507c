"""The first full sync of two filled files: all different, 1 % different, identical; nbdcopy beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from . import images, options
from .host import BenchFailed, LoopbackWatch, wait_until_quiet, workplace
from .pair import Pair
from .peers import nbdcopy
from .report import Figure, Report, Target

RATE_MIN = 1.5e9
EXTENT = 64 << 10
SHARE = 0.01
# A changed extent's own bytes, checksums of everything, and headers.
WIRE_PER_CHANGED_MAX = 1.25


@dataclass
class Laps:
    """All runs of one case. `rates`: bytes of the device a second."""

    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    command_seconds: list[float] = field(default_factory=list)
    wire_bytes: list[float] = field(default_factory=list)
    changed_bytes: list[int] = field(default_factory=list)
    loopback_bytes: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """`prepare` makes the target from the source and returns how many bytes differ."""

    name: str
    prepare: Callable[[Path, Path, int], int]


def _all_different(source: Path, target: Path, run: int) -> int:
    images.copy(source, target, shift=1 + run)
    return source.stat().st_size


def _some_different(source: Path, target: Path, run: int) -> int:
    images.copy(source, target)
    return images.change(target, SHARE, EXTENT, seed=run)


def _identical(source: Path, target: Path, run: int) -> int:
    images.copy(source, target)
    return 0


CASES = (
    Case("everything different", _all_different),
    Case("1 % different, scattered 64 KiB", _some_different),
    Case("identical", _identical),
)


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=3, size_mib=2048)
    command_line.add_argument(
        "--peers-only", action="store_true", help="leave blockpair out (no targets then)"
    )
    arguments = command_line.parse_args()
    options.race(lambda console, private: race(console, arguments, private))


def race(console: Console, arguments: argparse.Namespace, private: bool) -> int:
    size = arguments.size << 20
    if size <= (arguments.runs + 1) * images.STEP:
        raise BenchFailed(
            f"--size {arguments.size} is too small for {arguments.runs} runs with different contents"
        )
    report = Report("full-sync", f"First full sync of {arguments.size} MiB, copies in {arguments.folder}")
    with workplace(arguments.folder, 2 * size + (64 << 20)) as folder:
        source, target = folder / "source.img", folder / "target.img"
        console.print("[dim]filling the copies[/]")
        images.fill_randomly(source, size)
        copied = Laps()
        ours = {case.name: Laps() for case in CASES}
        for run in range(arguments.runs):
            _all_different(source, target, run)
            wait_until_quiet(3)
            seconds = nbdcopy(folder, source, target)
            images.must_be_identical("nbdcopy", source, target)
            copied.rates.append(size / seconds)
            for case in () if arguments.peers_only else CASES:
                ours[case.name].changed_bytes.append(case.prepare(source, target, run))
                place = folder / f"nodes-{CASES.index(case)}-{run}"
                sync(Pair(place, source, target), size, ours[case.name], private)
                images.must_be_identical(f"blockpair, {case.name}", source, target)
                console.print(
                    f"  [dim]run {run + 1}: {case.name}: {ours[case.name].rates[-1] / 1e9:.2f} GB/s[/]",
                    highlight=False,
                )
    summarise(report, copied, {} if arguments.peers_only else ours, private)
    return report.finish(console, arguments.check)


def sync(pair: Pair, size: int, laps: Laps, private: bool) -> None:
    """One first full sync on fresh metadata."""
    with pair.daemons():
        pair.create()
        pair.up()
        before = pair.a.peer()["wire"]
        wait_until_quiet(3)
        with LoopbackWatch() as loopback:
            command_seconds = pair.sync_from_a()
        pair.up_to_date()
        peer = pair.a.peer()
        pair.down()
    last = peer["last_resync"]
    if last is None or not last["finished"] or last["total_bytes"] != size:
        raise BenchFailed(f"blockpair reports no finished resync of {size} bytes: {last}")
    # The engine's own clock, unless the traffic shows that it took longer.
    seconds = max(float(last["elapsed_seconds"]), loopback.seconds if private else 0.0)
    laps.seconds.append(seconds)
    laps.rates.append(size / seconds)
    laps.command_seconds.append(command_seconds)
    laps.wire_bytes.append(_moved(peer["wire"]) - _moved(before))
    laps.loopback_bytes.append(loopback.bytes)
    if private:
        _compare_counters(laps.wire_bytes[-1], loopback.bytes)


def _moved(wire: dict[str, int]) -> int:
    return wire["sent_bytes"] + wire["received_bytes"]


def _compare_counters(counted: float, seen: float) -> None:
    """The resource's counters must agree with the interface's, which also count TCP's own bytes."""
    slack = 1 << 20
    if not counted - slack <= seen <= counted * 1.05 + slack:
        raise BenchFailed(f"blockpair counted {counted:.0f} bytes on the wire, the loopback interface {seen}")


def summarise(report: Report, copied: Laps, ours: dict[str, Laps], private: bool) -> None:
    """Figures, ratio and targets."""
    whole = CASES[0].name
    report.figures.append(Figure("nbdcopy to nbdkit", whole, "GB/s", [rate / 1e9 for rate in copied.rates]))
    for name, laps in ours.items():
        more: dict[str, float] = {
            "seconds": median(laps.seconds),
            "command seconds": median(laps.command_seconds),
            "wire MB": median(laps.wire_bytes) / 1e6,
        }
        if private:
            more["lo MB"] = median(laps.loopback_bytes) / 1e6
        report.figures.append(Figure("blockpair", name, "GB/s", [rate / 1e9 for rate in laps.rates], more))
    report.notes.append("copies compared after every run: identical")
    if not ours:
        return
    pairs = zip(ours[whole].rates, copied.rates, strict=True)
    report.ratios.append(
        Figure("nbdcopy to nbdkit", f"full sync, {whole}", "x", [mine / theirs for mine, theirs in pairs])
    )
    report.targets.append(
        Target(f"full sync, {whole}", "GB/s", median(ours[whole].rates) / 1e9, RATE_MIN / 1e9)
    )
    some = ours[CASES[1].name]
    wire = median(moved / changed for moved, changed in zip(some.wire_bytes, some.changed_bytes, strict=True))
    report.targets.append(
        Target("wire bytes for each changed byte", "x", wire, WIRE_PER_CHANGED_MAX, at_least=False)
    )


if __name__ == "__main__":
    main()
