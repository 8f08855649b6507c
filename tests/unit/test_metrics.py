"""Metrics: names and labels as Prometheus wants them, values as the reports have them, the page's table."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from blockpair.arbiter.fence.monitor import DeviceState
from blockpair.config.files import ConfigError
from blockpair.config.metrics import MetricsTable
from blockpair.config.node import NodeFile, node_config
from blockpair.health.report import NodeHealth
from blockpair.health.score import Part
from blockpair.metrics import machine, peers, resources
from blockpair.metrics.arbitration import arbitration
from blockpair.metrics.arrays import arrays
from blockpair.metrics.catalogue import families, table
from blockpair.metrics.cluster import Membership, configuration, membership
from blockpair.metrics.collectors import Collectors
from blockpair.metrics.exposition import Exposition
from blockpair.metrics.family import Sample, counter, gauge
from blockpair.metrics.fencing import fencing
from blockpair.metrics.health import health
from blockpair.metrics.services import services
from blockpair.raid.model import Sync
from blockpair.raid.standing import Standing
from blockpair.status.engine import EngineStatus
from blockpair.status.report import (
    SCHEMA,
    Advice,
    ArbiterReport,
    ConfigurationReport,
    KernelDeviceStatus,
    PeerSummary,
    PendingNode,
    ResourceReport,
    ServiceRun,
    ServiceStatus,
    ServiceStep,
    StatusReport,
)
from tests.metric_rules import ALERTS, alerts, dashboard_queries, names
from tests.unit.raid_samples import FAULTY, array, member
from tests.unit.status_samples import ARBITRATION, engine, latency, peer, resync

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
# What prometheus-client tells of the process.
PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}
Value = dict[tuple[str, ...], float]


def values(samples: Iterable[Sample]) -> dict[str, Value]:
    """By the metric's name, then by its labels; each once."""
    found: dict[str, Value] = {}
    for sample in samples:
        name = sample.family.name + sample.part
        labels = sample.labels if sample.bound is None else (*sample.labels, f"{sample.bound:g}")
        of = found.setdefault(name, {})
        assert labels not in of, f"{name} {labels} twice"
        of[labels] = float(sample.value)
    return found


def report(
    state: EngineStatus | None = None,
    *,
    advice: tuple[Advice, ...] = (),
    arbiter: ArbiterReport | None = None,
    service: ServiceStatus | None = None,
) -> StatusReport:
    """Node a with r0."""
    resource = ResourceReport(
        "r0",
        "down" if state is None else "running",
        None,
        not advice,
        "/dev/secret-disk",
        "internal",
        [PeerSummary("b", "10.0.0.2:7788")],
        None,
        KernelDeviceStatus(attached=True, link="/dev/blockpair/r0", path="/dev/nbd0"),
        state,
        list(advice),
        [],
        arbiter,
        service,
    )
    return StatusReport(SCHEMA, "0.1.0", "a", "2026-01-01T00:00:00Z", not advice, [resource])


def test_names_are_as_prometheus_wants_them() -> None:
    found = families()
    assert len({family.name for family in found}) == len(found) > 50
    for family in found:
        assert re.fullmatch(r"blockpair_[a-z]+(_[a-z]+)*", family.name), family.name
        assert all(re.fullmatch(r"[a-z]+", label) for label in family.labels), family
        assert family.meaning and not family.meaning.endswith("."), family
        # Base units, and none before another word but for rates and points in time.
        assert not re.search(r"_(ms|milliseconds|kib|mib|percent)(_|$)", family.name), family.name
    with pytest.raises(ValueError, match="_total"):
        gauge("blockpair_reads_total", "no gauge")
    with pytest.raises(ValueError, match="_total"):
        counter("blockpair_reads", "no counter")
    with pytest.raises(ValueError, match="labels"):
        resources.READS.sample(1)


def test_one_gauge_a_state_and_a_state_that_is_new_is_shown_too() -> None:
    known = values(resources.ROLE.states("Primary", resources.ROLES, "r0"))
    assert known == {"blockpair_resource_role": {("r0", "Primary"): 1, ("r0", "Secondary"): 0}}
    new = values(resources.ROLE.states("Observer", resources.ROLES, "r0"))["blockpair_resource_role"]
    assert new == {("r0", "Primary"): 0, ("r0", "Secondary"): 0, ("r0", "Observer"): 1}


def test_a_resource_that_runs() -> None:
    state = engine(
        role="Primary",
        disk="Inconsistent",
        suspended="b is silent",
        requests={"in_flight": 3, "in_flight_bytes": 12288},
        io={
            "reads": 1,
            "read_bytes": 2,
            "writes": 3,
            "written_bytes": 4,
            "flushes": 5,
            "trims": 6,
            "zeroes": 7,
            "healed_reads": 8,
            "healed_bytes": 9,
            "trimmed_bytes": 14,
            "zeroed_bytes": 15,
        },
        failed={"reads": 16, "writes": 17, "flushes": 18, "trims": 19, "zeroes": 20},
        warm_up={"known_bytes": 10, "left_bytes": 11, "held_bytes": 12, "answered_reads": 13},
    )
    said = (
        Advice("critical", "disk-lost", "…", "…"),
        Advice("warning", "path-down", "…", "…"),
        Advice("warning", "path-down", "another", "…"),
        Advice("info", "hint", "…", "…"),
    )
    found = values(resources.node(report(state, advice=said)))
    assert found["blockpair_resource_state"] == {("r0", "down"): 0, ("r0", "running"): 1, ("r0", "failed"): 0}
    assert found["blockpair_healthy"] == {(): 0} and found["blockpair_resource_healthy"] == {("r0",): 0}
    assert found["blockpair_resource_advice"] == {
        ("r0", "info"): 1,
        ("r0", "warning"): 2,
        ("r0", "critical"): 1,
    }
    assert found["blockpair_resource_problem"] == {
        ("r0", "critical", "disk-lost"): 1,
        ("r0", "warning", "path-down"): 1,
    }
    assert [state for (_, state), on in found["blockpair_resource_disk"].items() if on] == ["Inconsistent"]
    assert found["blockpair_resource_suspended"] == found["blockpair_resource_kernel_device"] == {("r0",): 1}
    assert found["blockpair_resource_in_flight_bytes"] == {("r0",): 12288}
    counted = ["reads", "read_bytes", "writes", "written_bytes", "flushes", "trims", "zeroes"]
    counted += ["healed_reads", "healed_bytes"]
    assert [found[f"blockpair_resource_{name}_total"]["r0",] for name in counted] == list(range(1, 10))
    warm = ["known_bytes", "left_bytes", "held_bytes", "reads_total"]
    assert [found[f"blockpair_resource_warm_{name}"]["r0",] for name in warm] == list(range(10, 14))
    assert found["blockpair_resource_trimmed_bytes_total"] == {("r0",): 14}
    assert found["blockpair_resource_zeroed_bytes_total"] == {("r0",): 15}
    failed = found["blockpair_resource_failed_requests_total"]
    assert [failed["r0", request] for request in ("read", "write", "flush", "trim", "zero")] == list(
        range(16, 21)
    )


def test_how_long_things_took_is_a_histogram_each() -> None:
    took = latency(writes=[3, 0, 2, 1], disk_writes=[6, 0, 0, 0])
    slow = peer(latency={"buckets": [0, 0, 0, 6], "sum_seconds": 30.0})
    found = values([*resources.node(told := report(engine(slow, latency=took))), *peers.peers(told)])
    seen = "blockpair_resource_request_duration_seconds"
    bounds = ["1e-05", "0.001", "0.1", "inf"]
    assert [found[f"{seen}_bucket"]["r0", "write", bound] for bound in bounds] == [3, 3, 5, 6]
    assert found[f"{seen}_count"]["r0", "write"] == 6 and found[f"{seen}_count"]["r0", "read"] == 0
    assert found[f"{seen}_sum"]["r0", "write"] == 0.5
    assert found["blockpair_resource_disk_duration_seconds_bucket"]["r0", "write", "1e-05"] == 6
    confirmed = "blockpair_peer_write_duration_seconds"
    assert [found[f"{confirmed}_bucket"]["r0", "b", bound] for bound in bounds] == [0, 0, 0, 6]
    assert found[f"{confirmed}_sum"] == {("r0", "b"): 30}
    with pytest.raises(ValueError, match="zip"):
        list(resources.DURATION.histogram([0.1], [1], 1.0, "r0", "read"))


def test_how_far_a_peer_is_behind_is_told_by_the_primary_as_far_as_it_knows() -> None:
    behind = peer(lag={"seconds": 1.5, "bytes": 8192})
    found = values(peers.peers(report(engine(behind))))
    assert found["blockpair_peer_lag_seconds"] == {("r0", "b"): 1.5}
    assert found["blockpair_peer_lag_bytes"] == {("r0", "b"): 8192}
    found = values(peers.peers(report(engine(peer(lag={"seconds": None, "bytes": 8192})))))
    assert "blockpair_peer_lag_seconds" not in found and "blockpair_peer_lag_bytes" in found
    found = values(peers.peers(report(engine(peer(), role="Secondary"))))
    assert "blockpair_peer_lag_bytes" not in found


def test_a_resource_that_is_down_says_no_role_rather_than_a_wrong_one() -> None:
    found = values(resources.node(report(None)))
    assert found["blockpair_resource_state"]["r0", "down"] == 1
    assert "blockpair_resource_role" not in found and not list(peers.peers(report(None)))


def test_a_peer_and_its_resync() -> None:
    away = peer(connection="Connecting", replication="Off", role=None, disk=None, last_contact_seconds=None)
    found = values(peers.peers(report(engine(away))))
    assert found["blockpair_peer_connection"]["r0", "b", "Connecting"] == 1
    assert found["blockpair_peer_disk"]["r0", "b", "unknown"] == 1
    assert "blockpair_peer_last_contact_seconds" not in found
    assert found["blockpair_resync_size_bytes"] == {("r0", "b"): 0}
    assert set(found["blockpair_resync_running"].values()) == {0}

    busy = peer(replication="SyncSource", resync=resync(), out_of_sync_bytes=4096, split_brain=False)
    found = values(peers.peers(report(engine(busy))))
    assert found["blockpair_resync_running"] == {("r0", "b", "to_peer"): 1, ("r0", "b", "from_peer"): 0}
    assert found["blockpair_resync_done_bytes"] == {("r0", "b"): 1 << 30}
    assert found["blockpair_resync_left_seconds"] == {("r0", "b"): 32}
    assert found["blockpair_peer_out_of_sync_bytes"] == {("r0", "b"): 4096}
    assert found["blockpair_peer_path"]["r0", "b", "10.0.0.2:7788", "active"] == 1
    assert found["blockpair_peer_socket_sent_bytes_total"] == {("r0", "b"): 3}


def test_arbitration_and_arbiter() -> None:
    state = engine(arbitration={**ARBITRATION, "suspended": "writes", "want": "shrink", "want_seconds": 1.5})
    arbiter = ArbiterReport("witness", "witness 10.0.0.3:7790", True, None, "unreachable", 12.0, "refused")
    found = values(arbitration(report(state, arbiter=arbiter)))
    assert found["blockpair_arbitration_epoch"] == {("r0",): 3}
    assert found["blockpair_arbitration_in_sync"] == {("r0", "a"): 1, ("r0", "b"): 1}
    assert found["blockpair_arbitration_lease_seconds"] == {("r0",): 1.5}
    assert "blockpair_arbitration_promise_seconds" not in found
    assert found["blockpair_arbitration_wait_seconds"] == {("r0",): 1.5}
    assert found["blockpair_arbitration_suspended"] == {("r0", "writes"): 1, ("r0", "all"): 0}
    assert found["blockpair_arbiter_state"]["r0", "witness", "unreachable"] == 1
    assert sum(found["blockpair_arbiter_state"].values()) == 1
    assert values(resources.node(report(state)))["blockpair_resource_suspended"] == {("r0",): 1}
    alone = engine(
        arbitration={**ARBITRATION, "configuration": {"epoch": 4, "primary": "a", "in_sync": ["a"]}}
    )
    found = values(arbitration(report(alone)))
    assert found["blockpair_arbitration_in_sync"] == {("r0", "a"): 1, ("r0", "b"): 0}


def test_fence_devices() -> None:
    asked = DeviceState("b", "ipmi", "/opt/fence_ipmilan", False, "no answer", 100.0, 40.0, 2.5, failures=1)
    found = values(fencing([asked, DeviceState("b", "pdu", "fence_apc")]))
    assert found["blockpair_fence_device_works"] == {("b", "ipmi", "fence_ipmilan"): 0}
    assert found["blockpair_fence_device_worked_timestamp_seconds"] == {("b", "ipmi"): 40}
    assert found["blockpair_fence_device_failures"] == {("b", "ipmi"): 1, ("b", "pdu"): 0}


def test_the_cluster() -> None:
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    known = Membership({"a": False, "b": False, "c": True}, {"b": False}, False, {"node": ends})
    found = values(membership(known))
    assert found["blockpair_cluster_member"] == {("a",): 1, ("b",): 1, ("c",): 0}
    assert found["blockpair_cluster_member_contact"] == {("b",): 0}
    assert found["blockpair_certificate_expiry_timestamp_seconds"] == {("node",): ends.timestamp()}
    said = ConfigurationReport(7, "id", [PendingNode("b", "away")], [], [])
    assert values(configuration(said))["blockpair_configuration_pending_nodes"] == {(): 1}
    assert not list(membership(None)) and not list(configuration(None))


def test_a_service_and_its_last_run() -> None:
    steps = [
        ServiceStep("mount", "do", "mount", 0.5, succeeded=False),
        ServiceStep("mount", "do", "mount", 0.25, succeeded=True),
        ServiceStep("mount", "undo", "unmount", 0.125, succeeded=True),
    ]
    run = ServiceRun("promote", "undone", "2026-01-01T00:00:00.500Z", 2.0, steps, "vip", "it is in use")
    service = ServiceStatus("failed", "it is in use", "…", ["192.0.2.10/24@eth0"], run, changed=True)
    found = values(services(report(engine(), service=service)))
    assert [state for (_, state), on in found["blockpair_service_state"].items() if on] == ["failed"]
    assert found["blockpair_service_vip"] == {("r0", "192.0.2.10/24"): 1}
    assert found["blockpair_service_changed"] == {("r0",): 1}
    assert found["blockpair_service_last_run_succeeded"] == {("r0", "promote"): 0}
    assert found["blockpair_service_last_run_timestamp_seconds"] == {("r0",): 1767225600.5}
    assert found["blockpair_service_last_run_step_seconds"] == {
        ("r0", "mount", "do"): 0.75,
        ("r0", "mount", "undo"): 0.125,
    }
    assert not list(services(report(engine())))


def test_the_health_of_the_node() -> None:
    part = Part("disk-latency sda", 400.0, "ms a request", 20.0, 0.4, 44.0)
    known = NodeHealth("a", 40.0, 55.0, 1.5, True, False, [part], ["…"], ["temperature: none"])
    found = values(health(known))
    assert found["blockpair_health_sick"] == {(): 1} and found["blockpair_health_hand_over"] == {(): 0}
    assert found["blockpair_health_smoothed_score"] == {(): 55}
    assert found["blockpair_health_part_value"] == {("disk-latency sda",): 400}
    assert found["blockpair_health_unseen_parts"] == {(): 1}
    assert not list(health(None))


def test_arrays() -> None:
    lost = (member("sda", 0), member("sdb", None, FAULTY), member("sdc", 2, errors=3), member("sdd", None))
    broken = array("data", lost, slots=3, sync=Sync("recover", 10, 100, 5), state="read-auto")
    left = Standing(4096, undecided=4096, peer_differs=512)
    broken = replace(broken, mismatch_bytes=4096)
    found = values(arrays([broken], {}, {broken.uuid: 8192}, {broken.uuid: left}))
    assert found["blockpair_array_healed_bytes_total"] == {("data",): 8192}
    assert found["blockpair_array_undecided_bytes"] == {("data",): 4608}
    assert found["blockpair_array_state"]["data", "read-auto"] == 1
    assert found["blockpair_array_missing_members"] == found["blockpair_array_spares"] == {("data",): 1}
    assert found["blockpair_array_member"]["data", "sdb", "faulty"] == 1
    assert found["blockpair_array_member_errors_total"]["data", "sdc"] == 3
    assert found["blockpair_array_sync_running"]["data", "recover"] == 1
    assert found["blockpair_array_sync_done_bytes"] == {("data",): 10}


def test_nothing_tells_where_the_data_are() -> None:
    """Whoever may scrape is not one who may see `status`."""
    page = Exposition().page(resources.node(report(engine())), "")
    assert b"secret" not in page.body and b"/dev" not in page.body


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_page_says_what_the_samples_say(accept: str) -> None:
    odd = 'a "quoted" \\ name\nof two lines'
    samples = [
        *resources.node(report(engine(latency=latency(reads=[1, 2, 3, 4])))),
        *machine.machine(odd, "off", armed=False),
    ]
    page = Exposition().page(samples, accept)
    parse = parse_openmetrics if accept else text_string_to_metric_families
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(page.body.decode())
        for sample in family.samples
    }
    assert not PROCESS - {name for name, _ in read}
    for sample in samples:
        labels = dict(zip(sample.family.labels, sample.labels, strict=True))
        if sample.bound is not None:
            labels["le"] = {1e-05: "1e-05", float("inf"): "+Inf"}.get(sample.bound, str(sample.bound))
        assert read.pop((sample.family.name + sample.part, tuple(sorted(labels.items())))) == sample.value
    assert all(name.startswith("process_") for name, _ in read)


@given(
    st.lists(
        st.sampled_from(["application/openmetrics-text", "text/plain", ";", ",", "version=", "1.0.0", "x"])
    )
    | st.text()
)
def test_whatever_a_scraper_says_that_it_takes_it_gets_a_page(accept: list[str] | str) -> None:
    page = Exposition().page([resources.HEALTHY.sample(1)], "".join(accept))
    assert b"\nblockpair_healthy 1.0\n" in page.body


def test_the_table_of_the_page_is_what_the_code_says() -> None:
    assert table() in PAGE.read_text(), "python -m blockpair.metrics.catalogue: into docs/metrics.md"


def test_alerts_and_dashboard_ask_for_nothing_that_no_node_has() -> None:
    exist = {name for family in families() for name in family.series()} | PROCESS
    assert not names(list(alerts().values())) - exist
    assert not names(dashboard_queries()) - exist
    assert len(dashboard_queries()) > 30


def test_every_alert_says_what_to_do() -> None:
    text = ALERTS.read_text()
    for part in ("severity: ", "summary: ", "remedy: "):
        assert text.count(part) == len(alerts()), part


class TestCollectors:
    """A subject that fails, or hangs, is told of and takes nothing else along."""

    def test_the_others_are_told(self) -> None:
        async def good() -> list[Sample]:
            return [resources.HEALTHY.sample(1)]

        async def bad() -> list[Sample]:
            raise OSError("mdadm is missing")

        found = values(asyncio.run(Collectors({"good": good, "bad": bad}).samples()))
        assert found["blockpair_healthy"] == {(): 1}
        assert found["blockpair_collector_ok"] == {("good",): 1, ("bad",): 0}

    def test_what_hangs_is_asked_once_and_comes_back(self) -> None:
        asked = 0

        async def run() -> None:
            free = asyncio.Event()

            async def slow() -> list[Sample]:
                nonlocal asked
                asked += 1
                await free.wait()
                return [resources.HEALTHY.sample(1)]

            collectors = Collectors({"slow": slow}, patience=0.01)
            for _ in range(3):
                found = values(await collectors.samples())
                assert found["blockpair_collector_ok"] == {("slow",): 0} and asked == 1
            free.set()
            found = values(await collectors.samples())
            assert (found["blockpair_collector_ok"], found["blockpair_healthy"]) == ({("slow",): 1}, {(): 1})

        asyncio.run(run())


class TestConfiguration:
    """``[metrics]``."""

    def test_nothing_is_served_unless_it_is_asked_for(self) -> None:
        assert node_config(NodeFile(), Path("blockpair.toml"), "a").metrics is None

    def test_an_address_that_is_given_is_taken(self) -> None:
        for listen in ("127.0.0.1:9101", "[::1]:9101", "10.0.0.1:9101"):
            content = NodeFile(metrics=MetricsTable(listen=listen))
            assert str(node_config(content, Path("blockpair.toml"), "a").metrics) == listen

    def test_what_is_no_address_is_refused_with_one_that_is(self) -> None:
        with pytest.raises(ConfigError, match=r"metrics\.listen") as refused:
            node_config(NodeFile(metrics=MetricsTable(listen="9101")), Path("blockpair.toml"), "a")
        assert "127.0.0.1:9101" in refused.value.remedy
