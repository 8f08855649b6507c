"""All checks together: what is known of this node, and of the others, into one list. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from blockpair.checks.facts import Clocks, NodeFacts, Way
from blockpair.checks.finding import SCHEMA, Examination, Finding, ordered, worst
from blockpair.checks.node import node_findings
from blockpair.checks.pair import clock_finding, pair_findings, ways_findings


@dataclass(frozen=True)
class Others:
    """What is known of the other members. ``facts``: by name, or why a node does not tell them; ``daemon``:
    what this node's daemon has to say beside (`members`).
    """

    facts: Mapping[str, NodeFacts | str] = field(default_factory=dict)
    ways: Sequence[Way] = ()
    clocks: Sequence[Clocks] = ()
    daemon: Sequence[Finding] = ()


def examine(own: NodeFacts, time: str, others: Others) -> Examination:
    """This node, the others, and what is between them."""
    findings = [*node_findings(own), *others.daemon, *_others(own, others)]
    return _examination(own, time, findings, daemon=True)


def examine_alone(own: NodeFacts, time: str, why: str, taken: Sequence[str]) -> Examination:
    """This node without its daemon. ``why``: there is none; ``taken``: ports that it could not have."""
    findings = [*node_findings(own), _no_daemon(own, why)]
    findings += [
        Finding(
            "port",
            own.node,
            "error",
            f"the daemon could not listen on {text}",
            "the other node would not reach it",
            "free that port (`ss -ltnp`), or set another one in [node] of blockpair.toml",
        )
        for text in taken
    ]
    return _examination(own, time, findings, daemon=False)


def _examination(own: NodeFacts, time: str, findings: list[Finding], *, daemon: bool) -> Examination:
    return Examination(
        schema=SCHEMA,
        node=own.node,
        version=own.version,
        time=time,
        daemon=daemon,
        worst=worst(findings),
        findings=ordered(findings),
    )


def _others(own: NodeFacts, others: Others) -> Iterator[Finding]:
    for name, facts in others.facts.items():
        if isinstance(facts, str):
            yield Finding(
                "peer",
                own.node,
                "error",
                f"{name} could not be examined: {facts}",
                "what is wrong there is not known",
                f"blockpair doctor (on {name})",
            )
            continue
        yield from node_findings(facts)
        yield from pair_findings(own, facts)
    yield from ways_findings(others.ways)
    for clocks in others.clocks:
        yield clock_finding(own.node, clocks)


def _no_daemon(own: NodeFacts, why: str) -> Finding:
    if own.member or own.copies or own.unreadable:
        return Finding(
            "daemon",
            own.node,
            "error",
            f"no daemon answers: {why}",
            "nothing here is replicated, and the other node was not looked at",
            "systemctl start blockpaird; why it ended: journalctl -u blockpaird",
        )
    return Finding(
        "daemon",
        own.node,
        "note",
        "no daemon runs here yet",
        "what lies between the nodes is looked at once it does, on both",
        "systemctl enable --now blockpaird",
    )
