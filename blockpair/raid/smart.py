"""What ``smartctl --json --all`` tells of a disk. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

_ATA = {
    5: "reallocated",
    187: "reported_uncorrectable",
    188: "command_timeout",
    197: "pending",
    198: "offline_uncorrectable",
    199: "crc_errors",
}
_COUNT_BITS = 16


@dataclass(frozen=True)
class Smart:
    """A disk's own account of itself. None: it does not tell. Counts are since it was made;
    ``spare_percent``, ``used_percent`` and ``critical_warning`` (bits of the NVMe health log) are of NVMe
    alone.
    """

    protocol: str
    model: str = ""
    passed: bool | None = None
    reallocated: int | None = None
    reported_uncorrectable: int | None = None
    command_timeout: int | None = None
    pending: int | None = None
    offline_uncorrectable: int | None = None
    crc_errors: int | None = None
    critical_warning: int | None = None
    spare_percent: int | None = None
    spare_threshold_percent: int | None = None
    used_percent: int | None = None
    media_errors: int | None = None
    power_on_hours: int | None = None
    temperature_c: int | None = None


class _Device(msgspec.Struct):
    protocol: str = ""


class _Raw(msgspec.Struct):
    value: int = 0


class _Attribute(msgspec.Struct):
    id: int
    raw: _Raw = msgspec.field(default_factory=_Raw)


class _Table(msgspec.Struct):
    table: list[_Attribute] = []


class _Status(msgspec.Struct):
    passed: bool | None = None


class _Nvme(msgspec.Struct):
    critical_warning: int | None = None
    available_spare: int | None = None
    available_spare_threshold: int | None = None
    percentage_used: int | None = None
    media_errors: int | None = None


class _Hours(msgspec.Struct):
    hours: int | None = None


class _Temperature(msgspec.Struct):
    current: int | None = None


class _Report(msgspec.Struct):
    device: _Device = msgspec.field(default_factory=_Device)
    model_name: str = ""
    smart_status: _Status = msgspec.field(default_factory=_Status)
    ata_smart_attributes: _Table = msgspec.field(default_factory=_Table)
    nvme_smart_health_information_log: _Nvme = msgspec.field(default_factory=_Nvme)
    power_on_time: _Hours = msgspec.field(default_factory=_Hours)
    temperature: _Temperature = msgspec.field(default_factory=_Temperature)


def parse(text: str | bytes) -> Smart:
    """The report of ``smartctl --json --all``. Raises `ValueError` for what it never printed."""
    try:
        report = msgspec.json.decode(text, type=_Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"smartctl printed something unexpected: {error}") from None
    counts = {
        _ATA[attribute.id]: _count(attribute)
        for attribute in report.ata_smart_attributes.table
        if attribute.id in _ATA
    }
    log = report.nvme_smart_health_information_log
    return Smart(
        protocol=report.device.protocol,
        model=report.model_name,
        passed=report.smart_status.passed,
        critical_warning=log.critical_warning,
        spare_percent=log.available_spare,
        spare_threshold_percent=log.available_spare_threshold,
        used_percent=log.percentage_used,
        media_errors=log.media_errors,
        power_on_hours=report.power_on_time.hours,
        temperature_c=report.temperature.current,
        **counts,
    )


def _count(attribute: _Attribute) -> int:
    """The count of an attribute. Of command timeouts some makers keep three counts of 16 bits in one raw
    value: all, those above 5 s, those above 7.5 s; the first is meant.
    """
    value = max(0, attribute.raw.value)
    if _ATA[attribute.id] == "command_timeout" and value >> _COUNT_BITS:
        return value & ((1 << _COUNT_BITS) - 1)
    return value
