"""`Finding`: what one check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Severity = Literal["ok", "note", "warning", "error"]
_RANKS: dict[Severity, int] = {"ok": 0, "note": 1, "warning": 2, "error": 3}


class Finding(Struct, frozen=True):
    """``id``: the check, a stable word; ``node``: where; ``what``: what was found; ``why``: what follows from
    it; ``remedy``: what to do. A "note" is worth knowing and needs nothing done.
    """

    id: str
    node: str
    severity: Severity
    what: str
    why: str = ""
    remedy: str = ""


class Examination(Struct, frozen=True):
    """What was found, the gravest first. ``daemon``: whether this node's was asked; without it the other node
    was not looked at.
    """

    schema: Literal["blockpair.checks/1"]
    node: str
    version: str
    time: str
    daemon: bool
    worst: Severity
    findings: list[Finding]


SCHEMA: Literal["blockpair.checks/1"] = "blockpair.checks/1"


def worst(findings: Iterable[Finding]) -> Severity:
    """The gravest severity; "ok" of nothing."""
    return max((each.severity for each in findings), key=_RANKS.__getitem__, default="ok")


def sound(severity: Severity) -> bool:
    """Whether nothing has to be done."""
    return _RANKS[severity] < _RANKS["warning"]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, otherwise as they came."""
    return sorted(findings, key=lambda each: -_RANKS[each.severity])
