"""How fast an audit reads both copies, beside fio that reads the same files at the same time."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from . import images, options
from .host import BenchFailed, Sampler, cpu_seconds, require, wait_until_quiet, workplace
from .pair import RESOURCE, Pair
from .report import Figure, Report, Target

SHARE_MIN = 0.8
# More under way than an audit has; the disks that we know give no more for more.
FIO_BLOCK, FIO_DEPTH = "1M", 16


@dataclass
class Laps:
    """Of all runs. `plain`, `audit`: bytes a second of the slower disk; `whole`: seconds of the command."""

    plain: list[float] = field(default_factory=list)
    audit: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=5, size_mib=4096)
    command_line.set_defaults(folder=Path("/var/tmp"))
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


def race(console: Console, arguments: argparse.Namespace) -> int:
    require("fio")
    size = arguments.size << 20
    report = Report(
        "audit", f"An audit of {arguments.size} MiB, nothing else being done, copies in {arguments.folder}"
    )
    laps = Laps()
    with workplace(arguments.folder, 2 * size) as folder:
        near, far = folder / "near.img", folder / "far.img"
        console.print("[dim]filling the copies[/]")
        images.fill_randomly(near, size)
        images.copy(near, far)
        pair = Pair(folder / "nodes", near, far)
        with pair.daemons():
            pair.create()
            pair.up()
            pair.sync_from_a()
            pair.up_to_date()
            pair.a.run("promote", RESOURCE)
            for run in range(arguments.runs):
                wait_until_quiet(3)
                laps.plain.append(plain(near, far))
                wait_until_quiet(3)
                lap(pair, size, laps)
                console.print(
                    f"  [dim]run {run + 1}: fio {laps.plain[-1] / 1e6:,.0f} MB/s,"
                    f" audit {laps.audit[-1] / 1e6:,.0f} MB/s[/]",
                    highlight=False,
                )
    summarise(report, laps, size)
    return report.finish(console, arguments.check)


def plain(near: Path, far: Path) -> float:
    """Both files from begin to end at the same time, past the page cache; of the slower, bytes a second."""
    command = ["fio", "--output-format=json", "--rw=read", "--direct=1", "--ioengine=libaio"]
    command += [f"--bs={FIO_BLOCK}", f"--iodepth={FIO_DEPTH}"]
    for name, file in (("near", near), ("far", far)):
        command += [f"--name={name}", f"--filename={file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode != 0:
        raise BenchFailed(f"fio cannot read {near.parent} past the page cache: {done.stderr.strip()[-600:]}")
    jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    return float(min(job["read"]["bw_bytes"] for job in jobs))


def lap(pair: Pair, size: int, laps: Laps) -> None:
    """One audit, whose command ends with 0 only if all of it was compared and is identical."""
    pids = [node.pid for node in pair.nodes]
    before = sum(map(cpu_seconds, pids))
    with DiskWatch(pids, size) as watch:
        laps.whole.append(pair.a.run("audit", "run"))
    laps.audit.append(size / watch.seconds())
    laps.cpu.append((sum(map(cpu_seconds, pids)) - before) / (size >> 20) * 1e6)


class DiskWatch(Sampler):
    """Samples every 10 ms how much each of some processes has read of its disk."""

    def __init__(self, pids: list[int], size: int) -> None:
        super().__init__()
        self._pids = pids
        self._size = size
        self._start = [disk_bytes(pid) for pid in pids]
        self._began: float | None = None
        self._ended: dict[int, float] = {}

    def _watch(self) -> None:
        # The checks before and after read some pages of metadata.
        little = 1 << 20
        last = time.monotonic()
        while not self._stop.wait(0.01):
            now = time.monotonic()
            for pid, start in zip(self._pids, self._start, strict=True):
                read = disk_bytes(pid) - start
                if self._began is None and read > little:
                    self._began = last
                if read >= self._size:
                    self._ended.setdefault(pid, now)
            last = now

    def seconds(self) -> float:
        """From the first read to when the last of them had read everything."""
        if self._began is None or len(self._ended) < len(self._pids):
            raise BenchFailed("an audit did not read both copies from a disk: --folder must not be in memory")
        return max(self._ended.values()) - self._began


def disk_bytes(pid: int) -> int:
    """What a process has had read of disks, past the page cache or into it."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("read_bytes: "):
            return int(line.split()[1])
    raise BenchFailed(f"process {pid} shows no read_bytes")


def summarise(report: Report, laps: Laps, size: int) -> None:
    """Figures, ratio and target."""
    more = {"seconds of the command": median(laps.whole), "processor µs a MiB": median(laps.cpu)}
    report.figures.append(
        Figure("fio, O_DIRECT, both at once", "slower disk", "MB/s", [rate / 1e6 for rate in laps.plain])
    )
    report.figures.append(
        Figure("blockpair audit", "slower disk", "MB/s", [rate / 1e6 for rate in laps.audit], more)
    )
    ratio = Figure(
        "fio's",
        "what an audit reads",
        "x",
        [ours / theirs for ours, theirs in zip(laps.audit, laps.plain, strict=True)],
    )
    report.ratios.append(ratio)
    report.targets.append(
        Target("what an audit reads of what the slower disk gives", "x", ratio.median, SHARE_MIN)
    )
    report.notes.append(f"every audit compared all of {size >> 20} MiB: identical")


if __name__ == "__main__":
    main()
