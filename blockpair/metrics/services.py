"""What follows the data: the services of the resources, their last run, virtual addresses. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import get_args

from blockpair.metrics.family import Sample, gauge
from blockpair.status.report import ServiceRun, ServiceState, ServiceStatus, StatusReport

SERVICE_STATE = gauge(
    "blockpair_service_state", "1 for the state of what follows the data on this node", "resource", "state"
)
SERVICE_HELD = gauge(
    "blockpair_service_held",
    "1: the node is Primary without the service, until somebody says promote",
    "resource",
)
SERVICE_CHANGED = gauge(
    "blockpair_service_changed", "1: another definition is configured than the one that is up", "resource"
)
VIP = gauge("blockpair_service_vip", "1 for each virtual address that this node holds", "resource", "address")
RUN_SUCCEEDED = gauge(
    "blockpair_service_last_run_succeeded", "1: the service's last run here ended well", "resource", "wish"
)
RUN_ENDED = gauge("blockpair_service_last_run_timestamp_seconds", "When it ended", "resource")
RUN_SECONDS = gauge("blockpair_service_last_run_seconds", "What it took", "resource")
STEP_SECONDS = gauge(
    "blockpair_service_last_run_step_seconds",
    "What a step of it took, the way up (do) or down (undo)",
    "resource",
    "step",
    "way",
)


def services(report: StatusReport) -> Iterator[Sample]:
    """Of every resource that has one."""
    for resource in report.resources:
        if resource.service is not None:
            yield from _service(resource.name, resource.service)


def _service(name: str, service: ServiceStatus) -> Iterator[Sample]:
    yield from SERVICE_STATE.states(service.state, get_args(ServiceState), name)
    yield SERVICE_HELD.sample(service.held, name)
    yield SERVICE_CHANGED.sample(service.changed, name)
    # Without the interface, which may have another name on the other node.
    for address in dict.fromkeys(vip.partition("@")[0] for vip in service.vips):
        yield VIP.sample(1, name, address)
    if service.last is not None:
        yield from _run(name, service.last)


def _run(name: str, run: ServiceRun) -> Iterator[Sample]:
    yield RUN_SUCCEEDED.sample(run.outcome == "done", name, run.wish)
    yield RUN_ENDED.sample(datetime.fromisoformat(run.time).timestamp(), name)
    yield RUN_SECONDS.sample(run.seconds, name)
    seconds: dict[tuple[str, str], float] = {}
    for step in run.steps:
        # What was tried again, and what the other node did in a switchover, counts too.
        seconds[step.name, step.way] = seconds.get((step.name, step.way), 0.0) + step.seconds
    for (step_name, way), took in seconds.items():
        yield STEP_SECONDS.sample(took, name, step_name, way)
