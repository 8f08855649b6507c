"""Metrics of live daemons: what the alert rules and the dashboard ask for is there, is true, and costs
little.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from blockpair.metrics.catalogue import families
from tests.e2e.cluster import Node, eventually, free_ports
from tests.e2e.duo import Duo
from tests.e2e.namespace import Namespace
from tests.e2e.nbd_client import NbdClient
from tests.e2e.service_pair import ADDRESS, ServicePair
from tests.e2e.trio import BLOCK, Trio, arbitration, content
from tests.metric_rules import alerts, dashboard_queries, names

SCRAPES = 100
# What is aimed at is a fifth of the time, and half of the CPU (docs/metrics.md has what was measured):
# other tests run at the same time.
MOST_SECONDS = 0.1
MOST_CPU_SECONDS = 0.02
_FETCH = """\
import sys, urllib.request
with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=30) as answer:
    print(answer.read().decode(), end="")
"""

Labels = tuple[tuple[str, str], ...]


class Metered:
    """The metrics of a node, which serves them from its next start on."""

    def __init__(self, node: Node) -> None:
        self.node = node
        [self.port] = free_ports(1)
        node.configure(f'[metrics]\nlisten = "127.0.0.1:{self.port}"\n')

    def text(self) -> str:
        """A scrape, from where the node is."""
        if self.node.prefix:
            words = [*self.node.prefix, sys.executable, "-c", _FETCH, str(self.port)]
            return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def values(self) -> dict[str, dict[Labels, float]]:
        """A scrape, by metric and labels."""
        found: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """One value; None where there is none."""
        return self.values().get(name, {}).get(tuple(sorted(labels.items())))


def asked_for(subject: str = "") -> set[str]:
    """The metrics of that subject that alert rules and dashboard name."""
    found = names([*alerts().values(), *dashboard_queries()])
    return {name for name in found if name.startswith(f"blockpair_{subject}")}


def test_a_pair_tells_what_is_asked_for_and_it_is_true(trio: Trio) -> None:
    a, b = Metered(trio.a), Metered(trio.b)
    trio.synced()
    with NbdClient(trio.a.nbd) as client:
        for number in range(5):
            client.write(number * BLOCK, content(number))
        client.flush()
    found = a.values()
    known = {name for family in families() for name in family.series()}
    assert not {name for name in found if name.startswith("blockpair_")} - known
    # What a pair with a witness, and without md, services and audits, has no subject for.
    elsewhere = asked_for("fence_") | asked_for("array_") | asked_for("service_")
    elsewhere |= asked_for("audit_") | asked_for("verify_")
    elsewhere |= {"blockpair_resource_problem"}
    assert not asked_for() - elsewhere - set(found)

    assert found["blockpair_resource_writes_total"] == {(("resource", "r0"),): 5}
    assert found["blockpair_resource_written_bytes_total"] == {(("resource", "r0"),): 5 * BLOCK}
    assert found["blockpair_resource_flushes_total"] == {(("resource", "r0"),): 1}
    for kind, request, count in (("request", "write", 5), ("request", "flush", 1), ("disk", "write", 5)):
        name = f"blockpair_resource_{kind}_duration_seconds"
        assert a.value(f"{name}_count", resource="r0", request=request) == count
        assert 0 < (a.value(f"{name}_sum", resource="r0", request=request) or 0) < 60
    assert a.value("blockpair_peer_write_duration_seconds_count", resource="r0", peer="b") == 5
    assert set(found["blockpair_resource_failed_requests_total"].values()) == {0}
    assert a.value("blockpair_peer_lag_seconds", resource="r0", peer="b") == 0
    assert b.value("blockpair_peer_lag_seconds", resource="r0", peer="a") is None
    assert a.value("blockpair_resource_role", resource="r0", role="Primary") == 1
    assert b.value("blockpair_resource_role", resource="r0", role="Secondary") == 1
    assert a.value("blockpair_peer_connection", resource="r0", peer="b", state="Connected") == 1
    assert a.value("blockpair_arbitration_epoch", resource="r0") == arbitration(trio.a)["epoch"]
    for node in ("a", "b"):
        assert a.value("blockpair_arbitration_in_sync", resource="r0", node=node) == 1
    assert 0 < (a.value("blockpair_arbitration_lease_seconds", resource="r0") or 0) <= 2
    assert a.value("blockpair_cluster_member_contact", node="b") == 1
    year = (a.value("blockpair_certificate_expiry_timestamp_seconds", certificate="node") or 0) - time.time()
    assert 300 < year / 86400 < 400
    assert set(found["blockpair_collector_ok"].values()) == {1}
    score = a.value("blockpair_health_score")
    assert score is not None and 0 <= score <= 100

    trio.b.kill()
    trio.entered("a", "a")
    assert a.value("blockpair_arbitration_in_sync", resource="r0", node="b") == 0
    assert a.value("blockpair_peer_connection", resource="r0", peer="b", state="Connected") == 0
    assert a.value("blockpair_arbitration_epoch", resource="r0") == arbitration(trio.a)["epoch"]
    with NbdClient(trio.a.nbd) as client:
        client.write(7 * BLOCK, content(7))
    assert a.value("blockpair_peer_out_of_sync_bytes", resource="r0", peer="b") == BLOCK
    assert a.value("blockpair_peer_lag_bytes", resource="r0", peer="b") == BLOCK
    assert 0 < (a.value("blockpair_peer_lag_seconds", resource="r0", peer="b") or 0) < 60


def test_a_pair_with_fence_devices_tells_how_they_do(duo: Duo) -> None:
    a = Metered(duo.a)
    duo.form()
    checked = "blockpair_fence_device_checked_timestamp_seconds"
    eventually(lambda: checked in a.values(), "the devices were looked at")
    found = a.values()
    assert not asked_for("fence_") - set(found)
    [(labels, works)] = found["blockpair_fence_device_works"].items()
    assert works == 1 and dict(labels)["node"] == "b" and dict(labels)["agent"] == "fence_test"
    [moment] = found[checked].values()
    assert 0 <= time.time() - moment < 60


@pytest.mark.skipif(
    not Namespace.possible() or shutil.which("setsid") is None,
    reason="needs root, network namespaces and setsid",
)
def test_a_service_and_its_address_are_told(base: Path) -> None:
    with contextlib.ExitStack() as stack:
        pair = ServicePair(base, stack, arbitrated=False)
        stack.callback(lambda: print(pair.logs()))
        assert pair.a.stop() == 0
        a = Metered(pair.a)
        pair.a.start()
        pair.a.wait("connected")
        pair.a.ok("promote", "r0")
        found = a.values()
        assert not asked_for("service_") - set(found)
        assert a.value("blockpair_service_state", resource="r0", state="up") == 1
        assert a.value("blockpair_service_vip", resource="r0", address=f"{ADDRESS}/24") == 1
        assert a.value("blockpair_service_last_run_succeeded", resource="r0", wish="promote") == 1
        pair.a.ok("demote", "r0")
        assert a.value("blockpair_service_vip", resource="r0", address=f"{ADDRESS}/24") is None
        assert a.value("blockpair_service_state", resource="r0", state="stopped") == 1


def test_a_taken_port_keeps_the_daemon_from_nothing_and_is_taken_when_it_is_free(trio: Trio) -> None:
    a = Metered(trio.a)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", a.port))
        other.listen()
        trio.a.start()
        eventually(lambda: "metrics.closed" in trio.a.log.read_text(), "the daemon says so")
        assert "[metrics]" in trio.a.log.read_text()
        assert trio.a.ok("status").code == 0
    eventually(lambda: "metrics.open" in trio.a.log.read_text(), "it has the port")
    assert a.value("blockpair_healthy") == 1


def test_a_scrape_is_quick_and_cheap(trio: Trio) -> None:
    """Once a second it should take less than a hundredth of a core."""
    a = Metered(trio.a)
    trio.synced()
    a.text()
    before = a.value("process_cpu_seconds_total")
    seconds = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        size = len(a.text())
        seconds.append(time.perf_counter() - began)
    after = a.value("process_cpu_seconds_total")
    assert before is not None and after is not None
    cpu = (after - before) / SCRAPES
    print(f"a scrape: {statistics.median(seconds) * 1e3:.1f} ms median, {max(seconds) * 1e3:.1f} ms at most,")
    print(f"{cpu * 1e3:.2f} ms of CPU, {size} bytes")
    assert statistics.median(seconds) < MOST_SECONDS
    assert cpu < MOST_CPU_SECONDS
