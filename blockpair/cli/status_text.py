"""The status for a person: one screen, the gravest in colour. Pure but for rich's types."""

from __future__ import annotations

import time

from rich.console import Group
from rich.text import Text

from blockpair.status.advice import behind
from blockpair.status.arbitration import head_line
from blockpair.status.engine import EngineStatus, PeerStatus, Resync
from blockpair.status.report import Advice, ResourceReport, StatusReport, VerifyStatus
from blockpair.status.service import service_line
from blockpair.units import counted, format_duration, format_size

_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_GOOD = {"UpToDate", "Established", "Connected"}
_BAD = {"Diskless", "Inconsistent", "StandAlone"}


def screen(report: StatusReport) -> Group:
    """All of the report."""
    head = Text.assemble(("node ", "dim"), (report.node, "bold"), (f"  blockpair {report.version}", "dim"))
    parts = [head]
    if report.configuration is not None:
        parts.append(row("configuration", Text(f"version {report.configuration.version}")))
    for entry in report.node_advice:
        parts += advice_lines(entry)
    if not report.resources:
        parts.append(Text("no resources; make one: blockpair create --help"))
    for resource in report.resources:
        parts.append(Text())
        parts += resource_lines(resource)
    return Group(*parts)


def resource_lines(resource: ResourceReport) -> list[Text]:
    """A resource, what it consists of, and what to do next."""
    engine = resource.engine
    if engine is None or resource.state != "running":
        style = "bold red" if resource.state == "failed" else "yellow"
        lines = [Text.assemble((resource.name, "bold"), "  ", (resource.state, style))]
    else:
        lines = [head(resource, engine)]
    # Empty where the configuration cannot be read.
    if resource.device:
        lines.append(row("device", Text(resource.device + _driver(engine))))
        lines.append(row("metadata", Text(resource.metadata)))
    if resource.kernel_device.attached:
        device = resource.kernel_device
        lines.append(row("offered as", Text(f"{device.link} ({device.path})")))
    if resource.nbd_socket is not None and engine is not None:
        users = f", {len(engine.clients)} connected" if engine.clients else ""
        lines.append(row("NBD socket", Text(resource.nbd_socket + users)))
    if resource.service is not None:
        lines.append(row("service", Text(service_line(resource.service))))
    if resource.arbiter is not None:
        lines.append(row("arbiter", Text(head_line(resource.arbiter, engine))))
    lines += _peers(resource, engine)
    if resource.verify is not None:
        lines.append(row("verify", verify_line(resource.verify, time.time())))
    for entry in resource.advice:
        lines += advice_lines(entry)
    return lines


def _peers(resource: ResourceReport, engine: EngineStatus | None) -> list[Text]:
    if engine is None:
        return [row(f"peer {peer.name}", Text(peer.address)) for peer in resource.peers]
    lines = []
    for peer in engine.peers:
        lines += peer_lines(peer)
        if peer.resync is not None:
            lines.append(resync_line(peer.resync))
    return lines


def verify_line(verify: VerifyStatus, now: float) -> Text:
    """Whether both copies are the same, as far as anybody has looked."""
    text = Text()
    if verify.running:
        percent = 100 * verify.done_bytes / verify.total_bytes if verify.total_bytes else 100.0
        waits = f", waits: {verify.reason}" if verify.reason else ""
        text.append(f"comparing, {percent:.1f} % of {format_size(verify.total_bytes)}{waits}; ")
    if verify.findings:
        text.append(f"differences in {counted(verify.findings, 'block')}", "bold red")
        return text
    if verify.oldest_proof_at is None:
        return text.append("nothing is proved identical yet")
    ago = format_duration(max(0.0, now - verify.oldest_proof_at))
    # Rounded down: what is not all of it must not look like it.
    share = int(1000 * verify.proved_share) / 10
    return text.append(
        f"proved identical {ago} ago ({share:g} %), 0 findings", "green" if share == 100 else ""
    )


def head(resource: ResourceReport, engine: EngineStatus) -> Text:
    """The resource, and what this node is to it."""
    role = f"{engine.role} (resuming)" if engine.resuming else engine.role
    return Text.assemble(
        (resource.name, "bold"),
        "  ",
        (role, "bold green" if engine.role == "Primary" else "bold"),
        "  ",
        (engine.disk, _style(engine.disk)),
        f"  {format_size(engine.size_bytes)}, protocol {engine.protocol}",
    )


def _driver(engine: EngineStatus | None) -> str:
    if engine is None:
        return ""
    return f" ({engine.backing.kind}, {engine.backing.driver}{', direct' if engine.backing.direct else ''})"


def peer_lines(peer: PeerStatus) -> list[Text]:
    """A peer: connection, its copy, the ways to it."""
    states = [peer.connection]
    if peer.connection == "Connected":
        states += [peer.replication, peer.role or "role unknown", peer.disk or "disk unknown"]
    text = Text()
    if peer.split_brain:
        text.append("SPLIT BRAIN", "bold white on red")
        text.append("  ")
    for state in states:
        text.append(state, _style(state))
        text.append("  ")
    if peer.resolving is not None:
        text.append(f"ending a split brain: {peer.resolving}", "yellow")
    elif peer.full_sync:
        text.append("needs a full sync", "yellow")
    elif peer.out_of_sync_bytes or peer.suspect_bytes:
        text.append(behind(peer), "yellow")
    elif peer.connection == "Connected":
        text.append("in sync")
    else:
        # What the peer has written meanwhile is not known here.
        text.append("no changes here")
    if len(peer.paths) == 1 or peer.connection != "Connected":
        text.append(f"  {peer.address or 'lost'}", "dim")
    lines = [row(f"peer {peer.name}", text)]
    if len(peer.paths) > 1 and peer.connection == "Connected":
        lines.append(row("  paths", _paths(peer)))
    return lines


def resync_line(resync: Resync) -> Text:
    """How far it is, and how long it takes."""
    left = "" if resync.eta_seconds is None else f", {format_duration(resync.eta_seconds)} left"
    rate = format_size(resync.rate_bytes_per_second)
    done = f"{percent(resync):.1f} % of {format_size(resync.total_bytes)}"
    return row(resync_label(resync), Text(f"{done}, {rate}/s{left}"))


def resync_label(resync: Resync) -> str:
    """Which way it goes."""
    return "resync to" if resync.direction == "to_peer" else "resync from"


def percent(resync: Resync) -> float:
    """What of it is done."""
    return 100 * resync.done_bytes / resync.total_bytes if resync.total_bytes else 100.0


def _paths(peer: PeerStatus) -> Text:
    text = Text()
    for index, path in enumerate(peer.paths):
        own = " (own)" if path.own else ""
        text.append(f"{', ' if index else ''}{path.address}{own} ", "dim")
        text.append(path.state, "red" if path.state == "down" else "green" if path.state == "active" else "")
    return text


def advice_lines(entry: Advice) -> list[Text]:
    """What is to be known, and done."""
    style = _STYLES[entry.severity]
    lines = [Text.assemble("  ", (entry.severity, style), f": {entry.text}")]
    if entry.remedy:
        first, *others = entry.remedy.split("\n")
        lines.append(Text.assemble("    ", ("next", "dim"), f": {first}"))
        lines += [Text(f"          {other}") for other in others]
    return lines


def row(label: str, text: Text) -> Text:
    """A line with its label."""
    return Text.assemble("  ", (f"{label:<12}", "dim"), " ", text)


def _style(state: str) -> str:
    return "green" if state in _GOOD else "red" if state in _BAD else "yellow"
