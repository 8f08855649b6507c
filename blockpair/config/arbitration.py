"""``[arbitration]`` of a resource: how long a peer may be silent, and for how long it gives its word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct

from blockpair.config.files import ConfigError
from blockpair.units import parse_duration

Profile = Literal["default", "fast", "wan"]

# A machine's clock may be steered by 500 parts in a million, and its crystal may be off besides.
DEFAULT_DRIFT_PPM = 1000
MAX_DRIFT_PPM = 100_000
_BEACONS_OF_PATIENCE = 3
_LEAST_BEACON, _MOST_BEACON = 0.01, 60.0
_MOST_LEASE = 3600.0


class ArbitrationTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[arbitration]``. Empty durations are the profile's; ``drift``: by how much the clocks of two nodes
    may run apart, in parts per million.
    """

    profile: Profile = "default"
    beacon: str = ""
    lease: str = ""
    patience: str = ""
    drift: int = DEFAULT_DRIFT_PPM


@dataclass(frozen=True)
class Timing:
    """Seconds. ``beacon``: between two signs of life; ``patience``: silence after which the peer counts as
    lost; ``lease``: for how long a peer's word holds that it will not campaign, by its own clock.
    """

    beacon: float
    lease: float
    patience: float
    drift_ppm: int = DEFAULT_DRIFT_PPM

    @property
    def usable_lease(self) -> float:
        """What the node that was given the word may count on, however the two clocks drift."""
        rate = self.drift_ppm / 1e6
        return self.lease * (1 - rate) / (1 + rate)


PROFILES: dict[Profile, Timing] = {
    "default": Timing(beacon=0.25, lease=2.0, patience=0.75),
    "fast": Timing(beacon=0.05, lease=0.3, patience=0.15),
    "wan": Timing(beacon=1.0, lease=10.0, patience=3.0),
}


def timing(file: Path, table: ArbitrationTable) -> Timing:
    """What the table says, checked. Raises `ConfigError`."""
    profile = PROFILES[table.profile]
    if not 0 <= table.drift <= MAX_DRIFT_PPM:
        raise ConfigError(
            file,
            "arbitration.drift",
            f"{table.drift} is not from 0 to {MAX_DRIFT_PPM} parts per million",
            f"write {DEFAULT_DRIFT_PPM}, more than clocks that are kept by NTP ever differ by",
        )
    beacon = _seconds(file, "beacon", table.beacon, profile.beacon)
    lease = _seconds(file, "lease", table.lease, profile.lease)
    # Beacons that are set without a patience of their own mean three of them.
    least = _BEACONS_OF_PATIENCE * beacon
    patience = _seconds(file, "patience", table.patience, least if table.beacon else profile.patience)
    found = Timing(beacon, lease, patience, table.drift)
    if not _LEAST_BEACON <= beacon <= _MOST_BEACON:
        raise ConfigError(
            file,
            "arbitration.beacon",
            f"{_text(beacon)} is not from {_text(_LEAST_BEACON)} to {_text(_MOST_BEACON)}",
            "choose a value in that range",
        )
    if patience < least - 1e-9:
        raise ConfigError(
            file,
            "arbitration.patience",
            f"{_text(patience)} is less than three beacons ({_text(least)}): two that are late would make a "
            "peer that lives count as lost",
            f"write at least {_text(least)}, or a shorter beacon",
        )
    if lease > _MOST_LEASE:
        raise ConfigError(
            file,
            "arbitration.lease",
            f"{_text(lease)} is more than {_text(_MOST_LEASE)}: no failover would be sooner",
            "choose a shorter one",
        )
    if patience >= found.usable_lease:
        raise ConfigError(
            file,
            "arbitration.lease",
            f"of {_text(lease)}, {_text(round(found.usable_lease, 6))} can be counted on (drift "
            f"{table.drift} ppm), and the patience is {_text(patience)}: reads would stop before the peer "
            "counts as lost",
            "write a longer lease, or a shorter patience",
        )
    return found


def _seconds(file: Path, key: str, value: str, default: float) -> float:
    if not value:
        return default
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ConfigError(file, f"arbitration.{key}", str(error), "correct the value") from None


def _text(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
