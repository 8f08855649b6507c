"""The node's program and its machine: version, watchdog. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from blockpair import __version__
from blockpair.config.node import WatchdogMode
from blockpair.metrics.family import Sample, gauge

INFO = gauge("blockpair_build_info", "Always 1: which node this is, and its version", "node", "version")
WATCHDOG_MODE = gauge("blockpair_watchdog_mode", "1 for the mode of `[watchdog]`", "mode")
WATCHDOG_ARMED = gauge("blockpair_watchdog_armed", "1 while the watchdog would reset the machine")


def machine(node: str, mode: WatchdogMode, *, armed: bool) -> Iterator[Sample]:
    """``mode`` is the configured one of the watchdog."""
    yield INFO.sample(1, node, __version__)
    yield from WATCHDOG_MODE.states(mode, get_args(WatchdogMode))
    yield WATCHDOG_ARMED.sample(armed)
