"""The cluster as this node knows it: members, configuration, certificates. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from blockpair.metrics.family import Sample, gauge
from blockpair.status.report import ConfigurationReport

MEMBER = gauge("blockpair_cluster_member", "1: a member; 0: it is lost, and its place is kept", "node")
CONTACT = gauge(
    "blockpair_cluster_member_contact",
    "1: the last call between this node and that one succeeded; absent: there was none yet",
    "node",
)
CONTROL_PORT = gauge("blockpair_cluster_control_port_open", "1 while other members can call this node")
VERSION = gauge("blockpair_configuration_version", "Number of the configuration's version on this node")
PENDING = gauge(
    "blockpair_configuration_pending_nodes", "Members that may not have this version of the configuration yet"
)
CONFLICTS = gauge(
    "blockpair_configuration_conflicts", "Members that changed the configuration while this node did so too"
)
EXPIRY = gauge(
    "blockpair_certificate_expiry_timestamp_seconds",
    "When the certificate ends: this node's own, or the cluster's authority's",
    "certificate",
)


@dataclass(frozen=True)
class Membership:
    """``members``: every node of the configuration, and whether it is lost; ``contact``: whether the last
    call to it succeeded, of those that there was one with; ``certificates``: when which ends.
    """

    members: Mapping[str, bool]
    contact: Mapping[str, bool] = field(default_factory=dict)
    control_port: bool = True
    certificates: Mapping[str, datetime] = field(default_factory=dict)


def membership(known: Membership | None) -> Iterator[Sample]:
    """Nothing on a node in no cluster."""
    if known is None:
        return
    for node, lost in known.members.items():
        yield MEMBER.sample(not lost, node)
    for node, reached in known.contact.items():
        yield CONTACT.sample(reached, node)
    yield CONTROL_PORT.sample(known.control_port)
    for which, ends in known.certificates.items():
        yield EXPIRY.sample(ends.timestamp(), which)


def configuration(report: ConfigurationReport | None) -> Iterator[Sample]:
    """Nothing on a node in no cluster."""
    if report is None:
        return
    yield VERSION.sample(report.version)
    yield PENDING.sample(len(report.pending))
    yield CONFLICTS.sample(len(report.conflicts))
