"""Who may write, and who says so: epochs, leases, the arbiter. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from blockpair.metrics.family import Sample, gauge
from blockpair.status.engine import ArbitrationStatus
from blockpair.status.report import ArbiterReport, ArbiterState, ResourceReport, StatusReport

_WAITS = ("writes", "all")

ARBITER_STATE = gauge(
    "blockpair_arbiter_state",
    "1 for how the last question to the arbiter ended; with fencing, unreachable: a device does not work",
    "resource",
    "kind",
    "state",
)
ARBITER_SINCE = gauge(
    "blockpair_arbiter_state_seconds",
    "For how long it has not answered, or since it last did; absent: not known",
    "resource",
)
AUTOMATIC = gauge(
    "blockpair_arbiter_automatic", "1: the survivor of a lost node goes on by itself", "resource"
)
EPOCH = gauge("blockpair_arbitration_epoch", "The epoch in which the node works", "resource")
PROMISED = gauge("blockpair_arbitration_promised_epoch", "Below this epoch the node hears nobody", "resource")
IN_SYNC = gauge(
    "blockpair_arbitration_in_sync", "1: the node has every write that was acknowledged", "resource", "node"
)
JOINT = gauge(
    "blockpair_arbitration_joint",
    "1: a node's confirmation is needed already that is not in the in-sync set yet",
    "resource",
)
LEASE = gauge(
    "blockpair_arbitration_lease_seconds",
    "On the Primary: what is left of the peer's word that it does not take over; absent: it gave none",
    "resource",
)
PROMISE = gauge(
    "blockpair_arbitration_promise_seconds",
    "What is left of this node's own such word; absent: it gave none",
    "resource",
)
WAIT = gauge(
    "blockpair_arbitration_wait_seconds",
    "For how long the engine has waited for the arbiter; 0: it does not",
    "resource",
)
ARBITRATION_SUSPENDED = gauge(
    "blockpair_arbitration_suspended",
    "1 while these requests wait for peer or arbiter",
    "resource",
    "requests",
)
SUPERSEDED = gauge(
    "blockpair_arbitration_superseded",
    "1: another node took over from this one, which has not caught up yet",
    "resource",
)


def arbitration(report: StatusReport) -> Iterator[Sample]:
    """Of every resource."""
    for resource in report.resources:
        if resource.arbiter is not None:
            yield from _arbiter(resource.name, resource.arbiter)
        engine = resource.engine
        if engine is not None and engine.arbitration is not None:
            yield from _engine(resource, engine.arbitration)


def _arbiter(resource: str, arbiter: ArbiterReport) -> Iterator[Sample]:
    yield from ARBITER_STATE.states(arbiter.state, get_args(ArbiterState), resource, arbiter.kind)
    yield from ARBITER_SINCE.known(arbiter.since_seconds, resource)
    yield AUTOMATIC.sample(arbiter.automatic, resource)


def _engine(report: ResourceReport, state: ArbitrationStatus) -> Iterator[Sample]:
    name = report.name
    yield EPOCH.sample(state.epoch, name)
    yield PROMISED.sample(state.promised, name)
    if state.configuration is not None and report.engine is not None:
        in_sync = state.configuration.in_sync
        nodes = {report.engine.node, *(peer.name for peer in report.peers), *in_sync}
        for node in sorted(nodes):
            yield IN_SYNC.sample(node in in_sync, name, node)
    yield JOINT.sample(state.joint, name)
    yield from LEASE.known(state.lease_seconds, name)
    yield from PROMISE.known(state.promise_seconds, name)
    yield WAIT.sample(state.want_seconds or 0, name)
    for requests in _WAITS:
        yield ARBITRATION_SUSPENDED.sample(state.suspended == requests, name, requests)
    yield SUPERSEDED.sample(state.superseded is not None, name)
