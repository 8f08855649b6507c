"""What comparing both copies has shown, for a person. Pure."""

from __future__ import annotations

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.report import ResourceReport
from blockpair.units import counted, format_duration, format_size
from blockpair.verify.messages import VerifyReport

# Findings that are shown one by one; --json has them all.
_SHOWN = 20


def lines(report: VerifyReport, now: float) -> list[str]:
    """All of a report."""
    told = [f"{report.name}: {state(report)}"]
    known = [at for at in report.proved if at is not None]
    if known:
        share = 100 * len(known) / len(report.proved)
        # Rounded down: what is not all of it must not look like it.
        told.append(
            f"  proved identical: {int(10 * share) / 10:g} % of {format_size(report.size)}, "
            f"the oldest part {format_duration(max(0.0, now - min(known)))} ago"
        )
    else:
        told.append(f"  proved identical: nothing yet, of {format_size(report.size)}")
    findings = [finding for finding in report.findings if finding.state != "repaired"]
    told += [
        f"  {format_size(finding.length)} at byte {finding.offset}: {finding.state}, "
        f"here {finding.local[:12]}…, there {finding.peer[:12]}…, found "
        f"{format_duration(max(0.0, now - finding.found_at))} ago"
        for finding in findings[:_SHOWN]
    ]
    if len(findings) > _SHOWN:
        told.append(f"  and {len(findings) - _SHOWN} more (--json shows all)")
    repaired = len(report.findings) - len(findings)
    if repaired:
        told.append(f"  {counted(repaired, 'block')} differed before: the same now")
    if any(finding.open for finding in report.findings):
        told.append(
            f"  next: have the Primary's copy overwrite the other's, on the Primary: "
            f"blockpair verify {report.name} --repair"
        )
    return told


def state(report: VerifyReport) -> str:
    """How far it is, or how it ended, in a line."""
    if report.running:
        percent = 100 * report.done_bytes / report.total_bytes if report.total_bytes else 100.0
        waits = f", waits: {report.reason}" if report.reason else ""
        return f"comparing, {percent:.1f} % of {format_size(report.total_bytes)}{waits}"
    why = f": {report.reason}" if report.reason else ""
    if report.ended is None:
        return "never compared by this node"
    if report.ended == "identical":
        return f"identical, {format_size(report.total_bytes)} compared" + (
            f", {report.reason}" if report.reason else ""
        )
    if report.ended == "differences":
        found = sum(finding.open for finding in report.findings)
        return f"differences in {counted(found, 'block')}" if found else "what differed is repaired or waived"
    return f"{report.ended} after {format_size(report.done_bytes)} of {format_size(report.total_bytes)}{why}"


def overwritten(status: ResourceReport, report: VerifyReport) -> str:
    """The question of a repair: whose blocks go, whose copy wins and why. Raises `BlockpairError` where no
    copy can be said to win.
    """
    name, engine = report.name, status.engine
    if engine is None or status.state != "running":
        raise BlockpairError(ErrorKind.FAILED, f"the resource {name} is down", f"blockpair up {name}")
    leads = next((peer.name for peer in engine.peers if peer.role == "Primary"), None)
    if engine.role != "Primary":
        if leads is not None:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{leads} is Primary of {name}: its copy wins, and it repairs the one here",
                f"on {leads}: blockpair verify {name} --repair",
            )
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"no node is Primary of {name}: nobody can say whose copy is the right one",
            f"on the node whose copy shall win: blockpair promote {name} && blockpair verify {name} --repair",
        )
    peer = next((peer.name for peer in engine.peers if peer.connection == "Connected"), None)
    if peer is None:
        raise BlockpairError(
            ErrorKind.FAILED,
            f"no other node of {name} is connected: there is nothing to repair it on",
            f"blockpair status {name}",
        )
    found = [finding for finding in report.findings if finding.open]
    size = format_size(sum(finding.length for finding in found))
    return (
        f"{name}: {counted(len(found), 'block')} ({size}) of {peer} are overwritten with those of "
        f"{engine.node}, whose copy wins because it is Primary: what its users have read and written is in "
        f"it. {peer} saves its blocks in a bundle first"
    )
