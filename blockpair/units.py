"""Sizes, durations and times as people write and read them. Sizes are bytes in powers of 1024; durations are
seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def utc(moment: datetime, timespec: str = "milliseconds") -> str:
    """RFC 3339 in UTC: in the order of time, as text too."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``4K``, ``4KiB`` or ``1G``. Raises `ValueError` that says what is."""
    match = re.fullmatch(r"(\d{1,18})\s*([KMGTP]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; write a number of bytes or one with K, M, G, T, such as 4K"
        )
    return int(match[1]) * _SIZE_UNITS[match[2].upper()]


def format_size(size: float) -> str:
    """``4 KiB``, ``1.5 GiB``: three digits at most, exact where it can be."""
    value, units = float(size), iter(("KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = "B"
    while abs(value) >= 1024 and (larger := next(units, None)) is not None:
        value, unit = value / 1024, larger
    if value == int(value):
        return f"{int(value)} {unit}"
    return f"{value:.2f} {unit}" if abs(value) < 10 else f"{value:.1f} {unit}"


def counted(number: int, thing: str) -> str:
    """``1 block``, ``3 blocks``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def parse_duration(text: str) -> float:
    """Seconds of ``300ms``, ``3s``, ``2.5s``, ``10m`` or ``1h``. Raises `ValueError` that says which forms
    are accepted.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h)", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number with ms, s, m or h, such as 3s")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def format_latency(seconds: float) -> str:
    """``85 µs``, ``1.2 ms``, ``340 ms``, ``2.5 s``."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms" if seconds < 9.95e-3 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s"


def format_duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3m 05s``, ``2h 10m``, ``50 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 72 * 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400} days"
