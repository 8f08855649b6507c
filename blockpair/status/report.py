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
ServiceState = Literal["stopped", "starting", "up", "suspended", "stopping", "failed"]

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
    long that has been so; ``text``: why it does not answer. ``fencing``: the node that is being switched off
    at this moment, ``fencing_seconds``: for how long.
    """

    kind: str
    place: str
    automatic: bool
    manual_because: str | None
    state: ArbiterState
    since_seconds: float | None = None
    text: str | None = None
    fencing: str | None = None
    fencing_seconds: float | None = None


class ServiceStep(Struct, frozen=True):
    """A step of a service's run that ended. ``way``: "do" or "undo"; ``what``: the action that succeeded or
    was tried last; ``problems``: of what was tried before; ``node``: where, in a switchover.
    """

    name: str
    way: str
    what: str
    seconds: float
    succeeded: bool
    problems: list[str] = []
    node: str | None = None


class ServiceRun(Struct, frozen=True):
    """A run of a service's plan. ``wish``: as `blockpair plan` names it; ``outcome``: "done", "undone",
    "stuck", or "cut" where another run cut in; ``time``: of its end, RFC 3339 in UTC; ``seconds``: from its
    begin to its end; ``step`` and ``why``: of a failure.
    """

    wish: str
    outcome: str
    time: str
    seconds: float
    steps: list[ServiceStep]
    step: str | None = None
    why: str | None = None


class ServiceStatus(Struct, frozen=True):
    """What follows the data of a resource, on this node. ``state``: "suspended" is up, without its addresses
    while this node may not write; ``why`` and ``remedy``: of a state that is not as it should be; ``vips``:
    the virtual addresses that this node holds; ``last``: the last run of this daemon; ``changed``: the
    configuration has another definition than the one that is up; ``held``: this node is Primary without its
    service, until somebody says promote.
    """

    state: ServiceState
    why: str | None
    remedy: str | None
    vips: list[str]
    last: ServiceRun | None
    changed: bool = False
    held: bool = False


class VerifyStatus(Struct, frozen=True):
    """What comparing both copies has shown. ``running``: it is being compared, or will be as soon as that can
    be; ``done_bytes`` of ``total_bytes``: of this run, or of the last; ``ended``: how that ended;
    ``reason``: of that, or what it waits for; ``proved_share``: how much was ever proved identical, from 0 to
    1; ``oldest_proof_at``: when the part was whose proof is the oldest; ``findings``: blocks that differ and
    that nobody has repaired or waived, the first at ``first_finding``. Times are Unix seconds.
    """

    running: bool
    done_bytes: int
    total_bytes: int
    ended: Literal["identical", "differences", "stopped", "failed"] | None
    reason: str | None
    ended_at: int | None
    proved_share: float
    oldest_proof_at: int | None
    findings: int
    first_finding: int | None


class ResourceReport(Struct, frozen=True):
    """A resource: what is configured, what the engine says (null while it is down), and what that means.

    ``state``: down, running, or failed (``failure`` says why). ``service`` is null where nothing follows it,
    ``verify`` where both copies were never compared.
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
    service: ServiceStatus | None = None
    verify: VerifyStatus | None = None


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
    """A node and its resources; ``configuration`` is null on a node in no cluster; ``advice`` is of the
    node's own file.
    """

    schema: Literal["blockpair.status/1"]
    version: str
    node: str
    time: str
    healthy: bool
    resources: list[ResourceReport]
    configuration: ConfigurationReport | None = None
    advice: list[Advice] = []

    @property
    def node_advice(self) -> list[Advice]:
        """Of the node's own file, and of the cluster's configuration."""
        return [*self.advice, *([] if self.configuration is None else self.configuration.advice)]
