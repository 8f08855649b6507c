"""``[raid]`` of ``blockpair.toml``: whether this node's daemon cares for its arrays, and by what rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as data_field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from blockpair.config.files import ConfigError
from blockpair.raid.health import REPLACE_AT
from blockpair.raid.rules import Rules
from blockpair.units import parse_duration

RaidWatch = Literal["auto", "on", "off"]
RaidHeal = Literal["on", "off"]
_DAY_SECONDS = 24 * 3600.0
_SCRUB_DAYS = (1, 366)
_LATENCY_SECONDS = (0.001, 10.0)
_ANY_DISK = ("some-disk", "/dev/some-disk")
_Wrong = Callable[[str, str, str], ConfigError]


class RaidTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[raid]``. ``watch``: "auto": unless the node has a directory of its own, for then it is one of
    several on this machine; ``heal``: whether more is done than to tell; ``replace_at``: the health at or
    below which a member is copied onto a spare; ``rebuild_latency``: "auto", or what an application's I/O may
    take while an array is synced; ``scrub_days``: from one scrub to the next, 0: none; ``scrub_hours``: in
    which one may begin; ``adopt``: by array, places where a blank disk becomes a spare of it.
    """

    watch: RaidWatch = "auto"
    heal: RaidHeal = "on"
    replace_at: int = REPLACE_AT
    rebuild_latency: str = "auto"
    scrub_days: int = 0
    scrub_hours: str = "0-24"
    adopt: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class RaidConfig:
    """Checked. ``watch``: None: that depends on where the node's directories are."""

    watch: bool | None = None
    rules: Rules = data_field(default_factory=Rules)


def raid_config(table: RaidTable, file: Path) -> RaidConfig:
    """The table of ``file``, checked. Raises `ConfigError`."""

    def wrong(key: str, reason: str, remedy: str) -> ConfigError:
        return ConfigError(file, f"raid.{key}", reason, remedy)

    if not 0 <= table.replace_at < 100:
        raise wrong(
            "replace_at",
            f"{table.replace_at} is not from 0 (never) to 99",
            f"leave it out for {REPLACE_AT}",
        )
    least, most = _SCRUB_DAYS
    if table.scrub_days and not least <= table.scrub_days <= most:
        raise wrong(
            "scrub_days",
            f"{table.scrub_days} is neither 0 nor from {least} to {most}",
            "30 is usual; leave it out, or write 0, for no scrubs",
        )
    for name, places in table.adopt.items():
        if not places or any(fnmatchcase(disk, place) for place in places for disk in _ANY_DISK):
            raise wrong(
                f"adopt.{name}",
                "it must list places, none of which may fit any disk",
                'write names of /dev/disk/by-path, such as ["pci-0000:03:00.0-sas-phy4-lun-0"]',
            )
    return RaidConfig(
        {"auto": None, "on": True, "off": False}[table.watch],
        Rules(
            heal=table.heal == "on",
            replace_at=table.replace_at,
            latency_ms=_latency(table, wrong),
            scrub_seconds=table.scrub_days * _DAY_SECONDS or None,
            scrub_hours=_hours(table, wrong),
            adopt={name: tuple(places) for name, places in table.adopt.items()},
        ),
    )


def _latency(table: RaidTable, wrong: _Wrong) -> float | None:
    if table.rebuild_latency == "auto":
        return None
    remedy = 'leave it out, or write it as rebuild_latency = "20ms"'
    try:
        seconds = parse_duration(table.rebuild_latency)
    except ValueError as error:
        raise wrong("rebuild_latency", str(error), remedy) from None
    least, most = _LATENCY_SECONDS
    if not least <= seconds <= most:
        raise wrong("rebuild_latency", f"{table.rebuild_latency} is not from 1 ms to {most:g} s", remedy)
    return seconds * 1000


def _hours(table: RaidTable, wrong: _Wrong) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,2})-(\d{1,2})", table.scrub_hours, re.ASCII)
    first, end = (int(found[1]), int(found[2])) if found else (0, 0)
    if found is None or first > 23 or end > 24 or first == end:
        raise wrong(
            "scrub_hours",
            f"{table.scrub_hours!r} is not two different hours of the day",
            'write it as scrub_hours = "1-5", or "22-6"; leave it out for any hour',
        )
    return first, end
