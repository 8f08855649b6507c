"""The calls of `blockpair verify`: their names, what they take and what they answer."""

from __future__ import annotations

from msgspec import Struct, field

from blockpair.verify.record import Ended, Finding

START = "verify_start"
STOP = "verify_stop"
REPORT = "verify_report"
REPAIR = "verify_repair"
WAIVE = "verify_waive"


class StartParams(Struct, forbid_unknown_fields=True):
    """``from`` and ``length``: bytes; without either, the last run goes on, or the whole device is compared,
    the part first whose proof is the oldest. ``max_rate``: bytes a second, null: as fast as the application
    allows.
    """

    name: str
    offset: int | None = field(default=None, name="from")
    length: int | None = None
    max_rate: int | None = None


class StopParams(Struct, forbid_unknown_fields=True):
    """One resource."""

    name: str


class ReportParams(Struct, forbid_unknown_fields=True):
    """One resource."""

    name: str


class FindingsParams(Struct, forbid_unknown_fields=True):
    """Open findings of one resource, by their offsets in bytes: those that a person has seen."""

    name: str
    offsets: list[int]


class VerifyReport(Struct, frozen=True):
    """What is known of whether both copies of a resource are the same (see `record.Record`). ``proved``: Unix
    seconds for each region of ``region_bytes``; ``running``: it is being compared, or will be as soon as that
    can be; ``reason``: what it waits for, or how it ended.
    """

    name: str
    size: int
    region_bytes: int
    proved: list[int | None]
    findings: list[Finding]
    running: bool
    done_bytes: int
    total_bytes: int
    ended: Ended | None
    reason: str | None
    ended_at: int | None = None
