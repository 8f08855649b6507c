"""How long writers wait when a node is lost: the survivor that takes over, and the Primary that goes on."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from blockpair.config.arbitration import PROFILES, Profile
from tests.e2e.cluster import Node
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
    report = Report("failover", "A node lost under a writer, a witness beside: time without a write")
    for profile in _PROFILES:
        try:
            found = measure(profile, arguments)
        except AssertionError as error:
            raise BenchFailed(f"profile {profile}: {error}") from error
        lease = PROFILES[profile].lease
        promises = (
            ("Primary killed: to the survivor's first write", found.killed, lease + _FAILOVER_S),
            ("Primary frozen: to the survivor's first write", found.frozen, lease + _FAILOVER_S),
            ("Secondary killed: the Primary's longest stall", found.peer_killed, _STALL_S[profile]),
            ("Secondary frozen: the Primary's longest stall", found.peer_frozen, _STALL_S[profile]),
        )
        for what, values, bound in promises:
            figure = Figure(f"profile {profile}", what, "s", values)
            report.figures.append(figure)
            target = Target(f"{profile}: {what}, median", "s", figure.median, bound, at_least=False)
            report.targets.append(target)
    return report.finish(console, arguments.check)


@dataclass
class Found:
    """Seconds: from the Primary's loss to the survivor's first write, and a Primary's stall when it lost its
    peer.
    """

    killed: list[float] = field(default_factory=list)
    frozen: list[float] = field(default_factory=list)
    peer_killed: list[float] = field(default_factory=list)
    peer_frozen: list[float] = field(default_factory=list)


def measure(profile: Profile, arguments: argparse.Namespace) -> Found:
    """Lose a node so many times in each of the ways, in turn."""
    found = Found()
    with tempfile.TemporaryDirectory(prefix="bp-", dir=arguments.folder, ignore_cleanup_errors=True) as base:
        trio = Trio(Path(base), size=arguments.size << 20)
        try:
            trio.synced(profile)
            primary, secondary = trio.a, trio.b
            for _ in range(arguments.runs):
                found.killed.append(primary_lost(primary, secondary, frozen=False))
                primary, secondary = secondary, primary
                back(trio, primary.name, secondary.name)
                found.peer_killed.append(peer_lost(primary, secondary, frozen=False))
                back(trio, primary.name, secondary.name)
                found.frozen.append(primary_lost(primary, secondary, frozen=True))
                primary, secondary = secondary, primary
                back(trio, primary.name, secondary.name)
                found.peer_frozen.append(peer_lost(primary, secondary, frozen=True))
                back(trio, primary.name, secondary.name)
        finally:
            trio.close()
    return found


def primary_lost(primary: Node, secondary: Node, *, frozen: bool) -> float:
    """From there to the first write that the survivor acknowledges."""
    writer = Writer(primary)
    writer.wrote(20)
    began = time.monotonic()
    with primary.silent() if frozen else contextlib.nullcontext():
        if not frozen:
            primary.kill()
        seconds = first_write(secondary, BLOCKS - 1, began)
    writer.ended()
    return seconds


def peer_lost(primary: Node, secondary: Node, *, frozen: bool) -> float:
    """The longest that the Primary acknowledged nothing."""
    writer = Writer(primary)
    writer.wrote(20)
    began = time.monotonic()
    with secondary.silent() if frozen else contextlib.nullcontext():
        if not frozen:
            secondary.kill()
        writer.wrote(50)
        seconds = writer.longest_stall(began)
    writer.stop()
    return seconds


def back(trio: Trio, primary: str, secondary: str) -> None:
    """Have the lost one back, until both are in the in-sync set."""
    for node in trio.cluster.nodes:
        if node.process is None:
            node.start()
    trio.entered(primary, primary, secondary)


if __name__ == "__main__":
    main()
