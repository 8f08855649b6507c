"""The published status, ``blockpair.status/1``: what ``blockpair status --json`` prints.

Within a version, fields are only added. docs/reference/status-json.md explains them, and
docs/reference/status-1.schema.json is generated from here by ``python -m blockpair.status.schema``.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from blockpair.status.engine import EngineStatus

Severity = Literal["info", "warning", "critical"]
State = Literal["down", "running", "failed"]
ArbiterState = Literal["manual", "unasked", "answers", "unreachable", "refused"]

SCHEMA: Literal["blockpair.status/1"] = "blockpair.status/1"


class Advice(Struct, frozen=True):
    """Something an administrator should know, and what to do next; ``code`` is stable.

    ``info`` leaves a resource healthy; ``warning`` and ``critical`` make it degraded.
    """

    severity: Severity
    code: str
    text: str
    remedy: str


class EventRecord(Struct, frozen=True):
    """Something that happened; ``time`` is RFC 3339 in UTC."""

    time: str
    severity: str
    name: str
    text: str


class KernelDeviceStatus(Struct, frozen=True):
    """The kernel's block device of a Primary: its stable name and the node behind it; ``error`` if there is
    none but should be."""

    attached: bool
    link: str | None = None
    path: str | None = None
    error: str | None = None


class PeerSummary(Struct, frozen=True):
    """A peer of the resource's configuration."""

    name: str
    address: str


class ArbiterReport(Struct, frozen=True):
    """Who says which node may go on. ``place``: for a person, such as ``witness 10.0.0.3:7790``;
    ``automatic``: whether the survivor goes on by itself, ``manual_because`` why not; ``state``: "manual",
    "unasked", or how the last question ended: "answers", "unreachable", "refused"; ``since_seconds``: for how
    long that has been so; ``text``: why it does not answer.
    """

    kind: str
    place: str
    automatic: bool
    manual_because: str | None
    state: ArbiterState
    since_seconds: float | None = None
    text: str | None = None


class ResourceReport(Struct, frozen=True):
    """A resource: what is configured, what the engine says (null while it is down), and what that means.

    ``state``: down, running, or failed (``failure`` says why).
    """

    name: str
    state: State
    failure: str | None
    healthy: bool
    device: str
    metadata: str
    peers: list[PeerSummary]
    nbd_socket: str | None
    kernel_device: KernelDeviceStatus
    engine: EngineStatus | None
    advice: list[Advice]
    events: list[EventRecord]
    arbiter: ArbiterReport | None = None


class PendingNode(Struct, frozen=True):
    """A node that may not have the present version of the configuration, and why."""

    node: str
    why: str


class ConfigurationConflict(Struct, frozen=True):
    """A node that changed the configuration while this one did so too; its newest version."""

    node: str
    version: int
    author: str
    time: str
    why: str


class ConfigurationReport(Struct, frozen=True):
    """The cluster's configuration on this node: its version and that one's id, and what is not settled."""

    version: int
    head: str
    pending: list[PendingNode]
    conflicts: list[ConfigurationConflict]
    advice: list[Advice]


class StatusReport(Struct, frozen=True):
    """A node and its resources; ``configuration`` is null on a node in no cluster."""

    schema: Literal["blockpair.status/1"]
    version: str
    node: str
    time: str
    healthy: bool
    resources: list[ResourceReport]
    configuration: ConfigurationReport | None = None
