"""The daemons look after a service: a unit that dies, one that does not stay up, and where that is off."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import eventually
from tests.e2e.namespace import Namespace
from tests.e2e.service_pair import NetNode, ServicePair

pytestmark = pytest.mark.skipif(
    not Namespace.possible() or shutil.which("setsid") is None,
    reason="needs root, network namespaces and setsid",
)


@pytest.fixture
def trio(base: Path) -> Iterator[ServicePair]:
    """A service on a, which may go to b by itself."""
    with contextlib.ExitStack() as stack:
        made = ServicePair(base, stack, arbitrated=True)
        try:
            made.a.ok("promote", "r0")
            made.a.is_up()
            made.in_step()
            yield made
            assert made.holders.most <= 1, "two nodes had the address at once"
        finally:
            print(made.logs())


def end(node: NetNode) -> None:
    """The application dies."""
    os.kill(int((node.dir / "units/app.service").read_text()), signal.SIGKILL)
    eventually(lambda: not node.active(), "the application is dead")


def care(node: NetNode) -> list[str]:
    """What the care did, by the events of a node."""
    shown = node.ok("events", "r0", "--kind", "care.*", "--json", "--limit", "1000").out
    return [json.loads(line)["what"] for line in shown.splitlines()]


def test_a_unit_that_dies_is_started_again_where_it_is(trio: ServicePair) -> None:
    a, b = trio.nodes
    end(a)
    eventually(lambda: "care.unit-recovered" in care(a), "it was seen to", 60.0)
    a.is_up()
    assert care(a) == ["care.unit-restart", "care.unit-recovered"] and care(b) == []


def test_a_unit_that_does_not_stay_up_takes_the_service_to_the_peer_and_no_further(trio: ServicePair) -> None:
    a, b = trio.nodes
    a.breaks("app.service")
    end(a)
    eventually(lambda: b.service()["state"] == "up", "the service has moved to b", 120.0)
    b.is_up()
    a.is_down()
    eventually(lambda: "care.switchover-done" in care(a), "that was told")
    told = care(a)
    assert told.count("care.switchover") == 1 and told.count("care.unit-restart") >= 3
    assert care(b) == ["care.moved-here"]
    # There it dies too, and b knows where it came from, and why.
    a.breaks()
    b.breaks("app.service")
    trio.in_step()
    end(b)
    eventually(lambda: "care.stays" in care(b), "it stays", 120.0)
    assert "care.switchover" not in care(b) and b.report()["engine"]["role"] == "Primary"
    assert "a switchover did not help" in b.ok("events", "r0", "--kind", "care.stays").out


def configured(trio: ServicePair, a: str, b: str) -> None:
    """Both daemons go by these lines in their configurations, without a restart."""
    for node, text in zip(trio.nodes, (a, b), strict=True):
        node.configure(text)
    for node in trio.nodes:
        eventually(lambda: "health.configured" in node.log.read_text(), f"{node.name} goes by it")  # noqa: B023


def parts(memory: tuple[int, int]) -> str:
    """Health by the share of memory that is available alone, 100 from the first number on and 0 under the
    second: whatever else this machine is busy with.
    """
    others = ("cpu", "memory", "disk-latency", "disk-busy", "disk-errors", "array", "temperature", "clock")
    lines = ['[health]\npatience = "30s"\ndwell = "60s"\n']
    lines += [f"[health.parts.{kind}]\ngood = 1000000\nbad = 2000000\n" for kind in others]
    return "".join(lines) + f"[health.parts.memory-available]\ngood = {memory[0]}\nbad = {memory[1]}\n"


def test_a_sick_node_hands_its_service_to_the_other(trio: ServicePair) -> None:
    a, b = trio.nodes
    configured(trio, parts((202, 201)), parts((-1, -2)))
    b.is_state("up", 240.0)
    b.is_up()
    a.is_down()
    eventually(lambda: "care.switchover-done" in care(a), "that was told")
    assert care(b) == ["care.moved-here"] and "health.sick" in a.ok("events").out
    sick = a.cli("health", "--json")
    assert sick.code == 4 and sick.json()["sick"] and not sick.json()["peers"][0]["health"]["sick"]


@pytest.mark.long
def test_by_hand_alone_where_it_is_switched_off(trio: ServicePair) -> None:
    a = trio.a
    off = '[health]\nhand_over = "off"\n'
    configured(trio, off, off)
    a.breaks("app.service")
    end(a)
    eventually(lambda: "care.stays" in care(a), "it stays", 120.0)
    assert "care.switchover" not in care(a)
    assert 'hand_over = "off"' in a.ok("events", "r0", "--kind", "care.stays").out
