"""The state of the cluster's configuration, and of the node's own, for the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blockpair.status.report import (
    Advice,
    ConfigurationConflict,
    ConfigurationReport,
    PendingNode,
)


def configuration_report(
    *,
    version: int,
    head: str,
    seen: Mapping[str, tuple[str | None, str | None]],
    conflicts: Sequence[ConfigurationConflict],
    problems: Sequence[str],
    failure: str | None,
    older: frozenset[str],
    node: str,
    distrusted: frozenset[str] = frozenset(),
) -> ConfigurationReport:
    """``seen``: the other nodes' heads, as far as they are known, and why one could not be reached;
    ``older``: the ids of the versions that came before ``head``; ``distrusted``: who does not go by the
    authority of this ``node``.
    """
    apart = {conflict.node for conflict in conflicts}
    pending = [
        PendingNode(node, why or "it takes it at the next contact")
        for node, (theirs, why) in seen.items()
        if node not in apart and theirs != head and (not theirs or theirs in older)
    ]
    advice = [
        Advice(
            "critical",
            "configuration-conflict",
            f"the configuration was changed here and on {conflict.node} while they were apart",
            f"see both: `blockpair config diff`; then take one: blockpair config accept {conflict.node}",
        )
        for conflict in conflicts
    ]
    if failure is not None:
        advice.append(Advice("critical", "configuration-failed", failure, "see the daemon's log"))
    advice += [Advice("warning", "configuration-files", text, "") for text in problems]
    advice += [no_member(node, other) for other in sorted(distrusted)]
    advice += [
        Advice(
            "warning" if seen[entry.node][1] is not None else "info",
            "configuration-pending",
            f"{entry.node} may not have version {version} of the configuration yet: {entry.why}",
            "it gets it by itself when it is back",
        )
        for entry in pending
        if entry.node not in distrusted
    ]
    return ConfigurationReport(
        version=version, head=head, pending=pending, conflicts=list(conflicts), advice=advice
    )


def no_member(node: str, other: str) -> Advice:
    """``other`` does not take ``node``, this one, for a member of its cluster."""
    return Advice(
        "critical",
        "no-member",
        f"{other} and this node do not go by the same authority: {node} was removed from the cluster, or "
        "missed a change of its authority",
        f"see on {other} who is a member: blockpair cluster status\n"
        f"if {node} is none: take its resources down, and here: blockpair cluster remove {node} --lost\n"
        f"then join again, by the command that `blockpair cluster token` prints on {other}",
    )


def node_file_advice(
    file: Path, *, waiting: Sequence[str] = (), unusable: tuple[str, str] | None = None
) -> list[Advice]:
    """Of ``blockpair.toml``. ``waiting``: its keys with other values than the daemon was started with;
    ``unusable``: why it cannot be used as it is, and the remedy.
    """
    if unusable is not None:
        why, remedy = unusable
        text = f"blockpaird goes on as it was started, and would not start again: {why}"
        return [Advice("warning", "node-misconfigured", text, remedy)]
    if not waiting:
        return []
    text = f"changed in {file} and not in use yet: {', '.join(waiting)}"
    return [Advice("warning", "node-settings", text, "restart blockpaird, or take the change back")]
