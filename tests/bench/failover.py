"""How long writers wait when a node is lost: the survivor that takes over, and the Primary that goes on."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console

from blockpair.config.arbitration import PROFILES, Profile
from tests.e2e.trio import BLOCKS, SIZE, Trio, Writer, first_write

from . import options
from .host import BenchFailed
from .report import Figure, Report, Target

# From the kill on; the lease comes before it.
_FAILOVER_S = 0.5
_STALL_S: dict[str, float] = {"default": 1.0, "fast": 0.4}
_PROFILES: tuple[Profile, ...] = ("default", "fast")


def main() -> None:
    command_line = options.parser(__doc__ or "", runs=10, size_mib=SIZE >> 20)
    arguments = command_line.parse_args()
    options.race(lambda console, _private: race(console, arguments))


def race(console: Console, arguments: argparse.Namespace) -> int:
    report = Report(
        "failover", "SIGKILL of a daemon under a writer, a witness beside: seconds without a write"
    )
    for profile in _PROFILES:
        try:
            taken, stalled, frozen = measure(profile, arguments)
        except AssertionError as error:
            raise BenchFailed(f"profile {profile}: {error}") from error
        lease = PROFILES[profile].lease
        promises: tuple[tuple[str, list[float], float | None], ...] = (
            ("Primary killed: to the survivor's first write", taken, lease + _FAILOVER_S),
            ("Secondary killed: the Primary's longest stall", stalled, _STALL_S[profile]),
            ("Primary frozen: to the survivor's first write", frozen, lease + _FAILOVER_S),
        )
        for what, values, bound in promises:
            figure = Figure(f"profile {profile}", what, "s", values)
            report.figures.append(figure)
            if bound is not None:
                report.targets.append(
                    Target(f"{profile}: {what}, median", "s", figure.median, bound, at_least=False)
                )
    report.notes.append(
        "a killed daemon's port refuses at once, so the survivor need not wait for the lease; frozen, it must"
    )
    return report.finish(console, arguments.check)


def measure(profile: Profile, arguments: argparse.Namespace) -> tuple[list[float], list[float], list[float]]:
    """Seconds: from the Primary's death to the survivor's first write, the stall of a Primary whose peer
    died, and from the moment that a Primary froze.
    """
    folder, runs, size = arguments.folder, arguments.runs, arguments.size << 20
    taken, stalled, frozen = [], [], []
    with tempfile.TemporaryDirectory(prefix="bp-", dir=folder, ignore_cleanup_errors=True) as base:
        trio = Trio(Path(base), size=size)
        try:
            trio.synced(profile)
            primary, secondary = trio.a, trio.b
            for _ in range(runs):
                writer = Writer(primary)
                writer.wrote(20)
                began = time.monotonic()
                primary.kill()
                taken.append(first_write(secondary, BLOCKS - 1, began))
                writer.ended()
                primary, secondary = secondary, primary
                back(trio, primary.name, secondary.name)

                writer = Writer(primary)
                writer.wrote(20)
                began = time.monotonic()
                secondary.kill()
                writer.wrote(50)
                stalled.append(writer.longest_stall(began))
                writer.stop()
                back(trio, primary.name, secondary.name)

                writer = Writer(primary)
                writer.wrote(20)
                began = time.monotonic()
                with primary.silent():
                    frozen.append(first_write(secondary, BLOCKS - 1, began))
                writer.ended()
                primary, secondary = secondary, primary
                back(trio, primary.name, secondary.name)
        finally:
            trio.close()
    return taken, stalled, frozen


def back(trio: Trio, primary: str, secondary: str) -> None:
    """Have the lost one back, until both are in the in-sync set."""
    for node in trio.cluster.nodes:
        if node.process is None:
            node.start()
    trio.entered(primary, primary, secondary)


if __name__ == "__main__":
    main()
