"""Whether copies were proved identical, and what the last audit found. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from blockpair.audit.outcome import AuditRecord
from blockpair.metrics.family import Sample, gauge
from blockpair.status.report import StatusReport

PROVED = gauge(
    "blockpair_verify_proved_ratio",
    "How much was ever proved identical on both nodes, from 0 to 1",
    "resource",
)
OLDEST = gauge(
    "blockpair_verify_oldest_proof_timestamp_seconds",
    "When the part was proved identical whose proof is the oldest",
    "resource",
)
FINDINGS = gauge(
    "blockpair_verify_findings", "Blocks that differ, and that nobody has repaired or waived", "resource"
)
RUNNING = gauge("blockpair_verify_running", "1 while both copies are being compared", "resource")
DONE = gauge("blockpair_verify_done_bytes", "Compared, in this run or the last", "resource")
TOTAL = gauge("blockpair_verify_total_bytes", "To be compared in that run", "resource")
AUDIT_ENDED = gauge("blockpair_audit_last_end_timestamp_seconds", "When the node's last audit ended")
AUDIT_CODE = gauge(
    "blockpair_audit_last_exit_code", "0 identical, 1 could not run, 3 differences, 4 not finished in time"
)
AUDIT_CHECKS = gauge(
    "blockpair_audit_last_check_findings", "What the last audit's checks found: errors, warnings", "severity"
)


def verified(report: StatusReport) -> Iterator[Sample]:
    """Of every resource whose copies were ever compared."""
    for resource in report.resources:
        verify = resource.verify
        if verify is None:
            continue
        yield PROVED.sample(verify.proved_share, resource.name)
        yield from OLDEST.known(verify.oldest_proof_at, resource.name)
        yield FINDINGS.sample(verify.findings, resource.name)
        yield RUNNING.sample(verify.running, resource.name)
        yield DONE.sample(verify.done_bytes, resource.name)
        yield TOTAL.sample(verify.total_bytes, resource.name)


def audits(last: AuditRecord | None) -> Iterator[Sample]:
    """Of the node's last audit, if there was one."""
    if last is None:
        return
    yield AUDIT_ENDED.sample(datetime.fromisoformat(last.ended_at).timestamp())
    yield AUDIT_CODE.sample(last.code)
    yield AUDIT_CHECKS.sample(last.errors, "error")
    yield AUDIT_CHECKS.sample(last.warnings, "warning")
