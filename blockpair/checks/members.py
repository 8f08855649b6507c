"""What is checked of the cluster as its daemon sees it, and of the resources by their status. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blockpair.checks.finding import Finding, Severity
from blockpair.cluster.report import ClusterReport, Concern
from blockpair.status.report import Advice, StatusReport

_BY_ADVICE: dict[str, Severity] = {"critical": "error", "warning": "warning", "info": "note"}


def cluster_findings(report: ClusterReport, concerns: Sequence[Concern]) -> Iterator[Finding]:
    """Membership, certificates, configuration and arbiter, as ``report`` and its ``concerns`` have them."""
    node = report.node
    if report.state in ("none", "failed"):
        yield _no_member(report)
        return
    for concern in concerns:
        severity: Severity = "error" if concern.severe else "warning"
        yield Finding(concern.code, node, severity, concern.text, "", concern.remedy)
    troubled = {concern.code for concern in concerns}
    others = [member.name for member in report.members if not member.here and not member.lost]
    if "certificate" not in troubled:
        until = min(
            moment
            for moment in (
                report.authority_expires,
                *(member.certificate_expires for member in report.members),
            )
            if moment is not None
        )
        yield Finding("certificate", node, "ok", f"the certificates are good, the first until {until}")
    if not others:
        yield Finding(
            "member",
            node,
            "note",
            f"{node} is alone in the cluster {report.cluster}",
            "nothing can be replicated yet",
            "what `blockpair cluster token` prints, on the other node",
        )
    elif not troubled & {"configuration", "member"}:
        what = f"all members have the configuration {report.configuration}"
        yield Finding("configuration", node, "ok", what)
    if report.arbiter is None:
        yield Finding(
            "arbiter",
            node,
            "note",
            "the cluster has no arbiter",
            "when a node is lost, a person decides whether the other goes on",
            "docs/arbiters.md",
        )
    elif "arbiter" not in troubled:
        took = report.arbiter.seconds * 1000
        yield Finding("arbiter", node, "ok", f"the arbiter, {report.arbiter.place}, answers in {took:.0f} ms")


def _no_member(report: ClusterReport) -> Finding:
    if report.failure is not None:
        return Finding("member", report.node, "error", report.failure, "it takes part in no cluster", "")
    return Finding(
        "member",
        report.node,
        "note",
        f"{report.node} is in no cluster",
        "without one it replicates with nodes on this machine alone",
        "blockpair cluster init NAME, or what `blockpair cluster token` prints on a member",
    )


def status_findings(report: StatusReport) -> Iterator[Finding]:
    """What `status` advises, and which resources it finds healthy."""
    for advice in report.node_advice:
        yield _advised(report.node, "", advice)
    for resource in report.resources:
        for advice in resource.advice:
            yield _advised(report.node, f"{resource.name}: ", advice)
        if resource.healthy:
            yield Finding("resource", report.node, "ok", f"{resource.name} is healthy")


def _advised(node: str, prefix: str, advice: Advice) -> Finding:
    return Finding(advice.code, node, _BY_ADVICE[advice.severity], prefix + advice.text, "", advice.remedy)
