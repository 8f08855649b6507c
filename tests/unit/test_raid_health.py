"""SMART reports in smartctl's form, the score made of them, and latencies beside those of the neighbours."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.raid import latency
from blockpair.raid.health import REPLACE_AT, Health, best_spare, score, to_replace
from blockpair.raid.latency import Ticks, Windows, parse_stat, slowness
from blockpair.raid.model import Sync
from blockpair.raid.smart import Smart, parse
from tests.unit.raid_samples import GIB, array, member


def _ata(passed: bool = True, **counts: int) -> dict[str, Any]:
    """A report in the form of smartctl 7.3, json_format_version 1.0, shortened."""
    ids = {
        "Reallocated_Sector_Ct": 5,
        "Power_On_Hours": 9,
        "Reported_Uncorrect": 187,
        "Command_Timeout": 188,
        "Current_Pending_Sector": 197,
        "Offline_Uncorrectable": 198,
        "UDMA_CRC_Error_Count": 199,
    }
    return {
        "json_format_version": [1, 0],
        "smartctl": {
            "version": [7, 3],
            "argv": ["smartctl", "--json=c", "--all", "/dev/sda"],
            "exit_status": 0,
        },
        "device": {"name": "/dev/sda", "info_name": "/dev/sda [SAT]", "type": "sat", "protocol": "ATA"},
        "model_name": "ST4000NM0035-1V4107",
        "smart_status": {"passed": passed},
        "ata_smart_attributes": {
            "revision": 10,
            "table": [
                {
                    "id": number,
                    "name": name,
                    "value": 100,
                    "worst": 100,
                    "thresh": 10,
                    "when_failed": "",
                    "flags": {"value": 51, "string": "PO--CK ", "prefailure": True},
                    "raw": {"value": counts.get(name, 0), "string": str(counts.get(name, 0))},
                }
                for name, number in ids.items()
            ],
        },
        "power_on_time": {"hours": 31415},
        "temperature": {"current": 34},
    }


def _nvme(**log: int) -> dict[str, Any]:
    return {
        "json_format_version": [1, 0],
        "device": {"name": "/dev/nvme0n1", "type": "nvme", "protocol": "NVMe"},
        "model_name": "SAMSUNG MZVL2512HCJQ-00B00",
        "smart_status": {"passed": not log.get("critical_warning"), "nvme": {"value": 0}},
        "nvme_smart_health_information_log": {
            "critical_warning": 0,
            "temperature": 41,
            "available_spare": 100,
            "available_spare_threshold": 10,
            "percentage_used": 3,
            "data_units_read": 12345678,
            "media_errors": 0,
            "num_err_log_entries": 12,
            **log,
        },
        "power_on_time": {"hours": 2718},
        "temperature": {"current": 41},
    }


def _health(report: dict[str, Any]) -> Health:
    return score(parse(json.dumps(report)))


def _codes(health: Health) -> list[str]:
    return [reason.code for reason in health.reasons]


def test_a_report_of_an_ata_disk_is_read() -> None:
    smart = parse(json.dumps(_ata(Reallocated_Sector_Ct=8, Current_Pending_Sector=2)))
    assert (smart.protocol, smart.model, smart.passed) == ("ATA", "ST4000NM0035-1V4107", True)
    assert (smart.reallocated, smart.pending, smart.offline_uncorrectable) == (8, 2, 0)
    assert (smart.power_on_hours, smart.temperature_c, smart.media_errors) == (31415, 34, None)


def test_three_counts_in_one_raw_value_are_told_apart() -> None:
    packed = 1 << 32 | 1 << 16 | 7
    assert parse(json.dumps(_ata(Command_Timeout=packed))).command_timeout == 7
    assert parse(json.dumps(_ata(Reallocated_Sector_Ct=70000))).reallocated == 70000


def test_a_report_of_an_nvme_disk_is_read() -> None:
    smart = parse(json.dumps(_nvme(media_errors=4, percentage_used=97)))
    assert (smart.protocol, smart.media_errors, smart.used_percent, smart.spare_percent) == (
        "NVMe",
        4,
        97,
        100,
    )
    assert smart.reallocated is None


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"device": 5}', '{"smart_status": {"passed": "no"}}']
)
def test_what_smartctl_never_printed_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="smartctl"):
        parse(text)


def test_a_sound_disk_has_nothing_against_it() -> None:
    assert _health(_ata()) == _health(_nvme()) == Health(100)
    assert score(None) == Health(100)


@pytest.mark.parametrize(
    ("report", "codes", "replace_it"),
    [
        (_ata(passed=False), ["failing"], True),
        (_ata(Offline_Uncorrectable=1), ["offline_uncorrectable"], True),
        (_ata(Reported_Uncorrect=2), ["reported_uncorrectable"], True),
        (_ata(Current_Pending_Sector=1), ["pending"], False),
        (_ata(Reallocated_Sector_Ct=8), ["reallocated"], False),
        (_ata(Current_Pending_Sector=1, Reallocated_Sector_Ct=8), ["pending", "reallocated"], True),
        (_ata(UDMA_CRC_Error_Count=200), ["crc_errors"], False),
        (_ata(Command_Timeout=3), ["command_timeout"], False),
        (_nvme(critical_warning=4), ["failing", "unreliable"], True),
        (_nvme(critical_warning=1), ["failing", "spare_low"], True),
        (_nvme(available_spare=9), ["spare_low"], True),
        (_nvme(media_errors=1), ["media_errors"], False),
        (_nvme(percentage_used=90), ["worn"], False),
        (_nvme(percentage_used=120, media_errors=1), ["media_errors", "worn"], True),
    ],
)
def test_each_sign_counts_as_the_statistics_say(
    report: dict[str, Any], codes: list[str], replace_it: bool
) -> None:
    health = _health(report)
    assert _codes(health) == codes
    assert health.replace is replace_it is (health.score <= REPLACE_AT)
    assert all(reason.text and reason.source for reason in health.reasons)


@given(
    st.builds(
        Smart,
        protocol=st.just("ATA"),
        passed=st.sampled_from((None, True)),
        **{
            name: st.none() | st.integers(0, 3)
            for name in (
                "reallocated",
                "reported_uncorrectable",
                "pending",
                "offline_uncorrectable",
                "crc_errors",
            )
        },
    ),
    st.sampled_from(
        ("reallocated", "reported_uncorrectable", "pending", "offline_uncorrectable", "crc_errors")
    ),
)
def test_one_more_sign_never_raises_a_score(smart: Smart, worse: str) -> None:
    counts: dict[str, Any] = {worse: 5}
    before, after = score(smart), score(replace(smart, **counts))
    assert 0 <= after.score <= before.score <= 100
    assert worse in _codes(after)


ILL, WEAK = Health(40), Health(60)


def test_a_member_that_will_fail_is_copied_onto_the_soundest_spare() -> None:
    spares = (member("sdx", None), member("sdy", None), member("sds", None, size_bytes=GIB // 2))
    whole = array(members=(*array().members, *spares), slots=4)
    assert to_replace(whole, {}) is None
    assert to_replace(whole, {"sdb": WEAK}) is None
    assert to_replace(whole, {"sdb": ILL}) == ("sdb", "sdx")
    assert to_replace(whole, {"sdb": ILL, "sdc": Health(0)}) == ("sdc", "sdx")
    assert to_replace(whole, {"sdb": ILL, "sdx": WEAK}) == ("sdb", "sdy")
    assert to_replace(whole, {"sdb": ILL, "sdx": ILL, "sdy": ILL}) is None
    assert best_spare(array(), {}) is None


def test_it_waits_while_anything_else_is_to_be_done() -> None:
    spare = member("sdx", None)
    whole = array(members=(*array().members, spare), slots=4)
    for busy in (
        replace(whole, sync=Sync("check", 0, 1, 1)),
        replace(whole, members=(*whole.members[1:],)),
        replace(whole, state="inactive"),
        replace(
            whole,
            members=(member("sda", 0, frozenset({"in_sync", "want_replacement"})), *whole.members[1:]),
        ),
    ):
        assert to_replace(busy, {"sdb": ILL}) is None


STAT = (
    "    1111        0   131432    10108       40        1       60      385        0      710    10729 0\n"
)


def test_the_counters_of_a_device_are_read() -> None:
    assert parse_stat(STAT) == Ticks(1151, 10493)
    assert parse_stat("1 2 3") is None and parse_stat("") is None and parse_stat("a b c d e f g h") is None
    assert latency.between(Ticks(0, 0), Ticks(100, 250)) == 2.5
    assert latency.between(Ticks(0, 0), Ticks(3, 250)) is None


def test_a_slow_member_stands_out_from_its_neighbours_and_load_does_not() -> None:
    quick = [{"a": load, "b": load, "c": load, "d": load * 4} for load in (1.0, 20.0, 5.0, 90.0) * 3]
    found = slowness(quick, "abcd")
    assert found["d"] == 4.0 and found["a"] == 1.0
    assert _codes(score(None, found["d"])) == ["slow"] and score(None, found["a"]) == Health(100)


def test_being_slow_once_or_among_idle_ones_is_nothing() -> None:
    once = [{"a": 1.0, "b": 1.0, "c": 50.0 if at < 3 else 1.0} for at in range(12)]
    assert slowness(once, "abc")["c"] == 1.0
    assert slowness([{"a": 50.0}] * 12, "abc") == {}
    assert slowness([{"a": 50.0, "b": 1.0}] * 3, "ab") == {}
    tiny = [{"a": 0.4, "b": 0.02}] * 12
    assert slowness(tiny, "ab")["a"] < 1


def test_windows_are_made_of_counters() -> None:
    windows = Windows()
    for step in range(12):
        windows.add({"a": Ticks(step * 100, step * 100), "b": Ticks(step * 100, step * 1000)})
    assert windows.slowness("ab") == {"a": 0.1, "b": 10.0}


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1000), min_size=4, max_size=4), min_size=10
    )
)
def test_at_most_half_of_the_members_are_slow(windows: list[dict[str, float]]) -> None:
    found = slowness(windows, "abcd")
    assert set(found) == set("abcd")
    assert sum(factor >= 3 for factor in found.values()) <= 2
