"""One round each of two of the faults of `./scripts/failover --service`, on nodes with two networks."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.namespace import Namespace
from tests.lab.service_rounds import SERVICE_BY_NAME, Fault
from tests.lab.service_stage import ServiceStage

pytestmark = pytest.mark.skipif(
    not Namespace.possible() or shutil.which("setsid") is None,
    reason="needs root, network namespaces and setsid",
)


@pytest.fixture
def stage(base: Path) -> Iterator[ServiceStage]:
    with contextlib.ExitStack() as stack:
        made = ServiceStage(base, stack)
        try:
            yield made
        finally:
            print(made.pair.logs())


def test_nothing_is_lost_and_nothing_is_twice_whatever_fails(stage: ServiceStage) -> None:
    for number, fault in enumerate((Fault.POWER, Fault.CLIENTS), 1):
        played = stage.play(SERVICE_BY_NAME[str(fault)], number)
        print(f"{fault}: the client waited {played.waited_s:.2f} s, {played.acknowledged} writes")
        assert not played.bad, played
    events = stage.pair.b.ok("events", "r0", "--kind", "care.*", "--json").out
    assert '"care.switchover"' in events and "no carrier on eth0" in events
