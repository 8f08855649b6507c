"""The fence devices that this node would switch the others off with, as its monitor finds them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blockpair.arbiter.fence.monitor import DeviceState
from blockpair.metrics.family import Sample, gauge

_WHICH = ("node", "device")

WORKS = gauge(
    "blockpair_fence_device_works",
    "1: the device answered when it was last monitored; absent: it was not monitored yet",
    *_WHICH,
    "agent",
)
CHECKED = gauge("blockpair_fence_device_checked_timestamp_seconds", "When it was last monitored", *_WHICH)
WORKED = gauge("blockpair_fence_device_worked_timestamp_seconds", "When it last answered", *_WHICH)
SECONDS = gauge("blockpair_fence_device_check_seconds", "What the last monitoring took", *_WHICH)
FAILURES = gauge("blockpair_fence_device_failures", "Monitorings that failed since one did not", *_WHICH)


def fencing(devices: Iterable[DeviceState]) -> Iterator[Sample]:
    """Of every device that is monitored; its times are of the wall clock."""
    for device in devices:
        which = (device.node, device.device)
        if device.works is not None:
            # The agent may be named by its path: who may scrape need not know where programs are.
            yield WORKS.sample(device.works, *which, device.agent.rpartition("/")[2])
        yield from CHECKED.known(device.checked_at, *which)
        yield from WORKED.known(device.worked_at, *which)
        yield from SECONDS.known(device.seconds, *which)
        yield FAILURES.sample(device.failures, *which)
