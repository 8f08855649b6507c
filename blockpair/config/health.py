"""``[health]`` of ``blockpair.toml``: what counts as sick on this node, and whether it hands over."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from dataclasses import field as data_field
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from blockpair.config.files import ConfigError
from blockpair.health.handover import Policy
from blockpair.health.score import DEFAULT_SCALES, Scale
from blockpair.units import parse_duration

HandOver = Literal["on", "off"]
_SMOOTHED = Policy().smoothing
_LONGEST_SECONDS = 7 * 24 * 3600.0


class PartTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[health.parts.KIND]``: what is left out is as in the default."""

    good: float | None = None
    bad: float | None = None
    weight: float | None = None
    severity: float | None = None


class HealthTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[health]``. ``hand_over``: whether this node, being Primary, moves services to the peer by itself:
    when it is sick, and when a unit does not stay up.
    """

    hand_over: HandOver = "on"
    sick_below: float = 60.0
    recovered_above: float = 66.0
    peer_above: float = 75.0
    margin: float = 20.0
    patience: str = "3m"
    dwell: str = "10m"
    switchovers_a_day: int = 3
    parts: dict[str, PartTable] = field(default_factory=dict)


@dataclass(frozen=True)
class HealthConfig:
    """Checked."""

    hand_over: bool = True
    policy: Policy = data_field(default_factory=Policy)
    scales: dict[str, Scale] = data_field(default_factory=lambda: dict(DEFAULT_SCALES))


def health_config(table: HealthTable, file: Path) -> HealthConfig:
    """The table of ``file``, checked. Raises `ConfigError`."""

    def wrong(key: str, reason: str, remedy: str) -> ConfigError:
        return ConfigError(file, f"health.{key}", reason, remedy)

    scores = {
        "sick_below": table.sick_below,
        "recovered_above": table.recovered_above,
        "peer_above": table.peer_above,
        "margin": table.margin,
    }
    for key, value in scores.items():
        if not 0 < value <= 100:
            raise wrong(key, f"{value:g} is no score from 0 to 100", f"leave it out for {_default(key):g}")
    if not table.sick_below < table.recovered_above <= table.peer_above:
        raise wrong(
            "recovered_above",
            f"sick_below ({table.sick_below:g}) must be less than recovered_above "
            f"({table.recovered_above:g}), which must not be more than peer_above ({table.peer_above:g})",
            "between them a score that wavers changes nothing: 60, 66 and 75 are the defaults",
        )
    if not 1 <= table.switchovers_a_day <= 24:
        raise wrong(
            "switchovers_a_day",
            f"{table.switchovers_a_day} is not from 1 to 24",
            'leave it out for 3; hand_over = "off" for none',
        )
    times: dict[str, float] = {}
    for key, text, least in (("patience", table.patience, _SMOOTHED), ("dwell", table.dwell, 60.0)):
        try:
            times[key] = parse_duration(text)
        except ValueError as error:
            raise wrong(key, str(error), f"leave it out for {_default(key):g} s") from None
        if not least <= times[key] <= _LONGEST_SECONDS:
            raise wrong(
                key, f"{text} is not from {least:g} s to a week", f"leave it out for {_default(key):g} s"
            )
    scales = dict(DEFAULT_SCALES)
    for kind, part in table.parts.items():
        scales[kind] = _scale(kind, part, file)
    policy = Policy(**scores, **times, most=table.switchovers_a_day)
    return HealthConfig(table.hand_over == "on", policy, scales)


def _default(key: str) -> float:
    value: float = getattr(Policy(), key)
    return value


def _scale(kind: str, table: PartTable, file: Path) -> Scale:
    key = f"health.parts.{kind}"
    default = DEFAULT_SCALES.get(kind)
    if default is None:
        raise ConfigError(
            file, key, "there is no such part", f"the parts are: {', '.join(sorted(DEFAULT_SCALES))}"
        )
    given = {
        name: value
        for name in ("good", "bad", "weight", "severity")
        if (value := getattr(table, name)) is not None
    }
    try:
        scale = replace(default, **given)
    except ValueError as error:
        raise ConfigError(file, key, str(error), "correct the values, or leave them out") from None
    if math.copysign(1, scale.bad - scale.good) != math.copysign(1, default.bad - default.good):
        more = "more" if default.bad > default.good else "less"
        raise ConfigError(
            file,
            key,
            f"bad ({scale.bad:g}) must be {more} than good ({scale.good:g}): {default.unit}",
            f"the defaults are good = {default.good:g}, bad = {default.bad:g}",
        )
    return scale
