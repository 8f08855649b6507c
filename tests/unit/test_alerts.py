"""The alert rules, by Prometheus's own tool: each fires when it should, and not when all is well."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import unpacked
from tests.metric_rules import ALERTS, alerts

_R = 'instance="a",resource="r0"'
_P = f'{_R},peer="b"'
_TOOK = "blockpair_resource_request_duration_seconds_bucket"
# Two hours, a value a minute.
_LENGTH = 120

Series = dict[str, str]


def always(value: float) -> str:
    """The same all the time."""
    return f"{value:g}x{_LENGTH}"


def grows(by: float) -> str:
    """More with every minute."""
    return f"0+{by:g}x{_LENGTH}"


# For each alert: what makes it fire, and the same metrics when all is well.
CASES: dict[str, tuple[Series, Series]] = {
    "BlockpairNodeDown": (
        {'up{job="blockpair",instance="a"}': always(0)},
        {'up{job="blockpair",instance="a"}': always(1), 'up{job="other",instance="x"}': always(0)},
    ),
    "BlockpairMetricsMissing": (
        {'blockpair_collector_ok{instance="a",collector="arrays"}': always(0)},
        {'blockpair_collector_ok{instance="a",collector="arrays"}': always(1)},
    ),
    "BlockpairResourceFailed": (
        {f'blockpair_resource_state{{{_R},state="failed"}}': always(1)},
        {
            f'blockpair_resource_state{{{_R},state="failed"}}': always(0),
            f'blockpair_resource_state{{{_R},state="down"}}': always(1),
        },
    ),
    "BlockpairSuspended": (
        {f"blockpair_resource_suspended{{{_R}}}": always(1)},
        {f"blockpair_resource_suspended{{{_R}}}": always(0)},
    ),
    "BlockpairNoPrimary": (
        {
            'blockpair_resource_role{instance="a",resource="r0",role="Primary"}': always(0),
            'blockpair_resource_role{instance="b",resource="r0",role="Primary"}': always(0),
        },
        {
            'blockpair_resource_role{instance="a",resource="r0",role="Primary"}': always(0),
            'blockpair_resource_role{instance="b",resource="r0",role="Primary"}': always(1),
        },
    ),
    "BlockpairTwoPrimaries": (
        {
            'blockpair_resource_role{instance="a",resource="r0",role="Primary"}': always(1),
            'blockpair_resource_role{instance="b",resource="r0",role="Primary"}': always(1),
        },
        {
            # Two clusters with a resource of that name each.
            'blockpair_resource_role{cluster="x",instance="a",resource="r0",role="Primary"}': always(1),
            'blockpair_resource_role{cluster="y",instance="c",resource="r0",role="Primary"}': always(1),
        },
    ),
    "BlockpairDiskLost": (
        {f'blockpair_resource_disk{{{_R},state="Diskless"}}': always(1)},
        {f'blockpair_resource_disk{{{_R},state="Diskless"}}': always(0)},
    ),
    "BlockpairCopyNotGood": (
        {
            f'blockpair_resource_disk{{{_R},state="UpToDate"}}': always(0),
            f'blockpair_resource_disk{{{_R},state="Diskless"}}': always(0),
        },
        {
            f'blockpair_resource_disk{{{_R},state="UpToDate"}}': always(1),
            f'blockpair_resource_disk{{{_R},state="Diskless"}}': always(0),
        },
    ),
    "BlockpairDiskHeals": (
        {f"blockpair_resource_healed_reads_total{{{_R}}}": grows(1)},
        {f"blockpair_resource_healed_reads_total{{{_R}}}": always(7)},
    ),
    "BlockpairRequestsFail": (
        {f'blockpair_resource_failed_requests_total{{{_R},request="read"}}': grows(1)},
        {f'blockpair_resource_failed_requests_total{{{_R},request="read"}}': always(7)},
    ),
    "BlockpairWritesSlow": (
        {
            f'{_TOOK}{{{_R},request="write",le="1.048576"}}': grows(90),
            f'{_TOOK}{{{_R},request="write",le="2.097152"}}': grows(100),
            f'{_TOOK}{{{_R},request="write",le="+Inf"}}': grows(100),
        },
        {
            # Reads are as slow as that; writes are not.
            f'{_TOOK}{{{_R},request="read",le="1.048576"}}': always(0),
            f'{_TOOK}{{{_R},request="read",le="+Inf"}}': grows(100),
            f'{_TOOK}{{{_R},request="write",le="0.000512"}}': grows(100),
            f'{_TOOK}{{{_R},request="write",le="+Inf"}}': grows(100),
        },
    ),
    "BlockpairReplicationLag": (
        {
            f"blockpair_peer_lag_seconds{{{_P}}}": grows(60),
            f'blockpair_peer_connection{{{_P},state="Connected"}}': always(1),
            f"blockpair_resync_size_bytes{{{_P}}}": always(0),
        },
        {
            # Lost, or being brought up to date: told as such.
            f"blockpair_peer_lag_seconds{{{_P}}}": grows(60),
            f'blockpair_peer_connection{{{_P},state="Connected"}}': always(1),
            f"blockpair_resync_size_bytes{{{_P}}}": always(4096),
        },
    ),
    "BlockpairWatchdogWait": (
        {f"blockpair_resource_watchdog_wait{{{_R}}}": always(1)},
        {f"blockpair_resource_watchdog_wait{{{_R}}}": always(0)},
    ),
    "BlockpairProblem": (
        {f'blockpair_resource_problem{{{_R},severity="critical",code="split-brain"}}': always(1)},
        {f'blockpair_resource_problem{{{_R},severity="warning",code="path-down"}}': always(1)},
    ),
    "BlockpairDegraded": (
        {'blockpair_healthy{instance="a"}': always(0)},
        {'blockpair_healthy{instance="a"}': always(1)},
    ),
    "BlockpairPeerLost": (
        {f'blockpair_peer_connection{{{_P},state="Connected"}}': always(0)},
        {f'blockpair_peer_connection{{{_P},state="Connected"}}': always(1)},
    ),
    "BlockpairSplitBrain": (
        {f"blockpair_peer_split_brain{{{_P}}}": always(1)},
        {f"blockpair_peer_split_brain{{{_P}}}": always(0)},
    ),
    "BlockpairPathDown": (
        {
            f'blockpair_peer_path{{{_P},address="10.1.0.2:7788",state="down"}}': always(1),
            f'blockpair_peer_connection{{{_P},state="Connected"}}': always(1),
        },
        {
            # All of them: that is the peer, and told as such.
            f'blockpair_peer_path{{{_P},address="10.1.0.2:7788",state="down"}}': always(1),
            f'blockpair_peer_connection{{{_P},state="Connected"}}': always(0),
        },
    ),
    "BlockpairOutOfSync": (
        {
            f"blockpair_peer_out_of_sync_bytes{{{_P}}}": always(4096),
            f"blockpair_resync_size_bytes{{{_P}}}": always(0),
        },
        {
            f"blockpair_peer_out_of_sync_bytes{{{_P}}}": always(4096),
            f"blockpair_resync_size_bytes{{{_P}}}": always(8192),
        },
    ),
    "BlockpairResyncStuck": (
        {
            f"blockpair_resync_size_bytes{{{_P}}}": always(8192),
            f"blockpair_resync_done_bytes{{{_P}}}": always(4096),
        },
        {
            f"blockpair_resync_size_bytes{{{_P}}}": always(8192),
            f"blockpair_resync_done_bytes{{{_P}}}": grows(1),
        },
    ),
    "BlockpairArbiterUnreachable": (
        {f'blockpair_arbiter_state{{{_R},kind="witness",state="refused"}}': always(1)},
        {
            f'blockpair_arbiter_state{{{_R},kind="witness",state="answers"}}': always(1),
            f'blockpair_arbiter_state{{{_R},kind="witness",state="unreachable"}}': always(0),
        },
    ),
    "BlockpairArbitrationWaits": (
        {f"blockpair_arbitration_wait_seconds{{{_R}}}": grows(60)},
        {f"blockpair_arbitration_wait_seconds{{{_R}}}": always(0)},
    ),
    "BlockpairSuperseded": (
        {f"blockpair_arbitration_superseded{{{_R}}}": always(1)},
        {f"blockpair_arbitration_superseded{{{_R}}}": always(0)},
    ),
    "BlockpairFenceDeviceFails": (
        {
            'blockpair_fence_device_works{instance="a",node="b",device="ipmi",agent="fence_ipmilan"}': always(
                0
            )
        },
        {
            'blockpair_fence_device_works{instance="a",node="b",device="ipmi",agent="fence_ipmilan"}': always(
                1
            )
        },
    ),
    "BlockpairFenceDeviceNotWatched": (
        {'blockpair_fence_device_checked_timestamp_seconds{instance="a",node="b",device="ipmi"}': always(0)},
        {'blockpair_fence_device_checked_timestamp_seconds{instance="a",node="b",device="ipmi"}': grows(60)},
    ),
    "BlockpairServiceFailed": (
        {f'blockpair_service_state{{{_R},state="failed"}}': always(1)},
        {f'blockpair_service_state{{{_R},state="failed"}}': always(0)},
    ),
    "BlockpairServiceSuspended": (
        {f'blockpair_service_state{{{_R},state="suspended"}}': always(1)},
        {f'blockpair_service_state{{{_R},state="up"}}': always(1)},
    ),
    "BlockpairServiceHeld": (
        {f"blockpair_service_held{{{_R}}}": always(1)},
        {f"blockpair_service_held{{{_R}}}": always(0)},
    ),
    "BlockpairAddressTwice": (
        {
            'blockpair_service_vip{instance="a",resource="r0",address="192.0.2.10/24"}': always(1),
            'blockpair_service_vip{instance="b",resource="r0",address="192.0.2.10/24"}': always(1),
        },
        {
            'blockpair_service_vip{instance="a",resource="r0",address="192.0.2.10/24"}': always(1),
            'blockpair_service_vip{instance="b",resource="r0",address="192.0.2.11/24"}': always(1),
        },
    ),
    "BlockpairNodeSick": (
        {'blockpair_health_sick{instance="a"}': always(1)},
        {'blockpair_health_sick{instance="a"}': always(0)},
    ),
    "BlockpairMemberUnreachable": (
        {'blockpair_cluster_member_contact{instance="a",node="b"}': always(0)},
        {'blockpair_cluster_member_contact{instance="a",node="b"}': always(1)},
    ),
    "BlockpairControlPortClosed": (
        {'blockpair_cluster_control_port_open{instance="a"}': always(0)},
        {'blockpair_cluster_control_port_open{instance="a"}': always(1)},
    ),
    "BlockpairConfigurationConflict": (
        {'blockpair_configuration_conflicts{instance="a"}': always(1)},
        {'blockpair_configuration_conflicts{instance="a"}': always(0)},
    ),
    "BlockpairConfigurationPending": (
        {'blockpair_configuration_pending_nodes{instance="a"}': always(1)},
        {'blockpair_configuration_pending_nodes{instance="a"}': always(0)},
    ),
    "BlockpairCertificateEnds": (
        # The tool's clock begins at 0.
        {'blockpair_certificate_expiry_timestamp_seconds{instance="a",certificate="node"}': always(86400)},
        {'blockpair_certificate_expiry_timestamp_seconds{instance="a",certificate="node"}': always(1e8)},
    ),
    "BlockpairCopiesDiffer": (
        {f"blockpair_verify_findings{{{_R}}}": always(1)},
        {f"blockpair_verify_findings{{{_R}}}": always(0)},
    ),
    "BlockpairAuditFailed": (
        {'blockpair_audit_last_exit_code{instance="a"}': always(1)},
        {'blockpair_audit_last_exit_code{instance="a"}': always(4)},
    ),
    "BlockpairAuditOverdue": (
        {'blockpair_audit_last_end_timestamp_seconds{instance="a"}': always(-15 * 86400)},
        {'blockpair_audit_last_end_timestamp_seconds{instance="a"}': always(-13 * 86400)},
    ),
    "BlockpairArrayFailed": (
        {'blockpair_array_state{instance="a",array="data",state="broken"}': always(1)},
        {'blockpair_array_state{instance="a",array="data",state="broken"}': always(0)},
    ),
    "BlockpairArrayDegraded": (
        {'blockpair_array_missing_members{instance="a",array="data"}': always(1)},
        {'blockpair_array_missing_members{instance="a",array="data"}': always(0)},
    ),
    "BlockpairArrayMemberErrors": (
        {'blockpair_array_member_errors_total{instance="a",array="data",device="sda"}': grows(1)},
        {'blockpair_array_member_errors_total{instance="a",array="data",device="sda"}': always(3)},
    ),
}


def promtool(*arguments: str | Path) -> None:
    """Run it; what it says, if it is not content."""
    program = shutil.which("promtool") or _fetched()
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _fetched() -> Path:
    try:
        return unpacked.program("prometheus", "usr/bin/promtool")
    except unpacked.PackageUnavailable as error:
        pytest.skip(f"there is no promtool: {error}")


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def test_every_alert_has_its_case() -> None:
    assert set(CASES) == set(alerts())


def test_each_alert_fires_when_it_should_and_is_silent_when_all_is_well(tmp_path: Path) -> None:
    def case(name: str, series: Series, samples: list[dict[str, Any]]) -> dict[str, Any]:
        firing = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        return {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in series.items()],
            "promql_expr_test": [
                {"expr": firing, "eval_time": f"{_LENGTH}m", "exp_samples": samples},
            ],
        }

    tests = []
    for name, (wrong, well) in CASES.items():
        tests.append(case(name, wrong, [{"labels": "{}", "value": 1}]))
        tests.append(case(name, well, []))
    # What is JSON is YAML.
    file = tmp_path / "alerts_test.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "5m", "tests": tests}))
    promtool("test", "rules", file)
