"""The audit's report as Markdown, for a ticket or a wiki. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from blockpair.audit.device_map import shares
from blockpair.audit.outcome import AuditReport
from blockpair.audit.words import TITLES, covered, sentence
from blockpair.units import counted, format_duration, format_size, utc
from blockpair.verify.messages import VerifyReport

_FINDINGS_SHOWN = 50


def markdown(report: AuditReport) -> str:
    """All of it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: AuditReport) -> Iterator[str]:
    now = datetime.fromisoformat(report.time).timestamp()
    _, words, more = sentence(report)
    yield f"# Audit of {report.node}"
    yield ""
    yield f"{report.time}, blockpair {report.checks.version}"
    yield ""
    yield f"**{words}.** {more}".rstrip()
    yield ""
    yield "## The last audit"
    yield ""
    if report.last is None:
        yield "None has ended on this node yet."
    else:
        yield f"{report.last.began_at} to {report.last.ended_at}, exit code {report.last.code}"
        yield ""
        yield "| Resource | Outcome | Compared for | Why |"
        yield "| --- | --- | --- | --- |"
        for result in report.last.results:
            took = format_duration(result.seconds) if result.seconds else ""
            yield f"| {result.name} | {TITLES[result.outcome][1]} | {took} | {_cell(result.why)} |"
    for verified in report.resources:
        yield from _resource(verified, now)
    yield ""
    yield "## Checks"
    yield ""
    for finding in report.checks.findings:
        if finding.severity != "ok":
            yield f"- **{finding.severity}** {finding.id} ({finding.node}): {_cell(finding.what)}"
            if finding.remedy:
                yield f"  Next: {_cell(finding.remedy)}"
    fine = sum(finding.severity == "ok" for finding in report.checks.findings)
    yield f"- {counted(fine, 'check')} in order"


def _resource(verified: VerifyReport, now: float) -> Iterator[str]:
    yield ""
    yield f"## {verified.name}, {format_size(verified.size)}"
    yield ""
    yield covered(verified, now)
    yield ""
    yield "| Last proved identical | Share |"
    yield "| --- | --- |"
    for shade, share in shares(verified, now):
        yield f"| {shade.title} | {share} |"
    if not verified.findings:
        return
    yield ""
    yield "| At byte | Length | State | Found | Here | There |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for finding in verified.findings[:_FINDINGS_SHOWN]:
        at = utc(datetime.fromtimestamp(finding.found_at, UTC), "seconds")
        yield (
            f"| {finding.offset} | {format_size(finding.length)} | {finding.state} | {at} "
            f"| `{finding.local[:16]}` | `{finding.peer[:16]}` |"
        )
    more = len(verified.findings) - _FINDINGS_SHOWN
    if more > 0:
        yield ""
        yield f"And {more} more: `blockpair audit report --json`."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
