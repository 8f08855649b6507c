"""fio's `nbd` engine as the application: one connection to a Unix socket export."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from .host import BenchFailed


@dataclass(frozen=True)
class Job:
    """A load. `flush`: a FLUSH after each write."""

    name: str
    pattern: str
    block_bytes: int
    depth: int
    flush: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the application saw. Latencies are completion latencies in microseconds."""

    iops: float
    bytes_per_second: float
    p50_us: float
    p99_us: float
    operations: int


def run(job: Job, uri: str, size: int, seconds: float) -> Outcome:
    """Loads the export for `seconds`. Raises `BenchFailed` on any I/O error."""
    command = [
        *("fio", f"--name={job.name}", "--output-format=json", "--ioengine=nbd", f"--uri={uri}"),
        *(f"--rw={job.pattern}", f"--bs={job.block_bytes}", f"--iodepth={job.depth}", f"--size={size}"),
        *(f"--runtime={seconds}s", "--time_based", "--randrepeat=0"),
        *(("--fsync=1",) if job.flush else ()),
    ]
    # fio can hang on a server that stopped answering; a race must end.
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"fio did not end: {job.name} on {uri}") from None
    if done.returncode != 0:
        raise BenchFailed(f"fio failed on {uri} ({job.name}): {done.stderr.strip()[-600:]}")
    report = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    writes = report["write"]
    if report["error"] != 0 or writes["total_ios"] == 0:
        raise BenchFailed(f"fio wrote nothing or saw an error on {uri} ({job.name}): error {report['error']}")
    percentiles = writes["clat_ns"]["percentile"]
    return Outcome(
        iops=writes["iops"],
        bytes_per_second=writes["bw_bytes"],
        p50_us=percentiles["50.000000"] / 1000,
        p99_us=percentiles["99.000000"] / 1000,
        operations=writes["total_ios"],
    )
