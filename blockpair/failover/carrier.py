"""Whether the network is there, as this machine's interfaces say."""

from __future__ import annotations

from collections.abc import Iterable


def without_carrier(interfaces: Iterable[str]) -> tuple[str, ...]:
    """Those that are not there, are switched off, or have no carrier; sorted. Raises `OSError`."""
    import psutil

    states = psutil.net_if_stats()
    return tuple(sorted(name for name in set(interfaces) if name not in states or not states[name].isup))
