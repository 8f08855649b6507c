"""What was checked, for a person: the gravest first. Pure but for rich's types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from blockpair.checks.finding import Examination, Finding, Severity
from blockpair.units import counted

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def lines(report: Examination) -> Iterator[Text]:
    """All of it, and how many there are."""
    yield Text.assemble(("node ", "dim"), (report.node, "bold"), (f"  blockpair {report.version}", "dim"))
    for finding in report.findings:
        yield from _lines(finding)
    yield Text(summary(report.findings), "bold")


def summary(findings: list[Finding]) -> str:
    """How many of each."""
    count = Counter(finding.severity for finding in findings)
    told = [
        counted(count["error"], "error"),
        counted(count["warning"], "warning"),
        counted(count["note"], "note"),
    ]
    return f"{', '.join(told)}; {count['ok']} in order"


def _lines(finding: Finding) -> Iterator[Text]:
    where = f" ({finding.node})"
    yield Text.assemble(
        (f"{finding.severity:<8}", _STYLES[finding.severity]),
        f"{finding.id:<13} ",
        finding.what,
        (where, "dim"),
    )
    if finding.why:
        yield Text(f"{'':22}{finding.why}", "dim")
    for line in finding.remedy.splitlines():
        yield Text(f"{'':22}next: {line}")
