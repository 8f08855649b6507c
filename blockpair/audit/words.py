"""What an audit's report says, in words that its forms share. Pure."""

from __future__ import annotations

from datetime import datetime

from blockpair.audit.device_map import FOUND, Cell, percent
from blockpair.audit.outcome import AuditReport, Code, Outcome
from blockpair.checks.finding import Severity
from blockpair.units import counted, format_duration
from blockpair.verify.messages import VerifyReport

TITLES: dict[Outcome, tuple[Severity, str]] = {
    "identical": ("ok", "identical"),
    "differences": ("error", "differences"),
    "unfinished": ("note", "not finished"),
    "failed": ("warning", "could not run"),
    "left": ("note", "left to its Primary"),
}
VERDICTS: dict[int, tuple[Severity, str]] = {
    Code.IDENTICAL: ("ok", "All copies that this node leads were identical"),
    Code.NOT_RUN: ("warning", "Not every resource could be compared"),
    Code.DIFFERENCES: ("error", "Copies differ"),
    Code.UNFINISHED: ("note", "Not everything was compared in time; the next audit goes on from there"),
}


def sentence(report: AuditReport) -> tuple[Severity, str, str]:
    """The verdict: how grave it is, in a line, and what else there is to say."""
    count = [finding.severity for finding in report.checks.findings]
    errors, warnings = count.count("error"), count.count("warning")
    checks = f"The checks found {counted(errors, 'error')} and {counted(warnings, 'warning')}."
    differ = sum(finding.open for verified in report.resources for finding in verified.findings)
    if differ:
        return "error", f"Copies differ in {counted(differ, 'place')}", checks
    if report.last is None:
        return "note", "No audit has ended on this node yet", checks
    tone, words = VERDICTS.get(report.last.code, ("warning", "The last audit ended unexpectedly"))
    return tone, words, f"That was {format_ago(report.last.ended_at, report.time)}. {checks}"


def format_ago(then: str, now: str) -> str:
    """``14h 05m ago``, of two times in RFC 3339."""
    passed = datetime.fromisoformat(now) - datetime.fromisoformat(then)
    return f"{format_duration(max(0.0, passed.total_seconds()))} ago"


def covered(verified: VerifyReport, now: float) -> str:
    """How much was ever proved identical, and how long ago."""
    known = [at for at in verified.proved if at is not None]
    differ = sum(finding.open for finding in verified.findings)
    if not known:
        return f"Nothing of it was ever proved identical; {counted(differ, 'finding')}"
    bare = [region for region, at in enumerate(verified.proved) if at is None]
    missing = sum(
        min(verified.region_bytes, verified.size - region * verified.region_bytes) for region in bare
    )
    share = percent(verified.size - missing, verified.size)
    oldest = format_duration(max(0.0, now - min(known)))
    return f"Proved identical: {share}, the oldest part {oldest} ago; {counted(differ, 'finding')}"


def age_of(cell: Cell, now: float) -> str:
    """Of a cell of the map."""
    if cell.shade is FOUND:
        return FOUND.title
    if cell.proved is None:
        return cell.shade.title
    return f"proved identical {format_duration(max(0.0, now - cell.proved))} ago"
