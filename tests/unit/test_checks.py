"""What checks find, from facts as nodes tell them."""

from __future__ import annotations

import dataclasses
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from blockpair.checks.examine import Others, examine, examine_alone
from blockpair.checks.facts import (
    ArrayFacts,
    ClockFacts,
    Clocks,
    CopyFacts,
    FenceFacts,
    KernelFacts,
    NodeFacts,
    ServiceFacts,
    SpaceFacts,
    WatchdogFacts,
    Way,
)
from blockpair.checks.finding import Examination, Finding, ordered, sound, worst
from blockpair.checks.machine import gather, taken_ports
from blockpair.checks.members import cluster_findings
from blockpair.cli.doctor_text import lines
from blockpair.cluster.report import ArbiterLook, ClusterReport, MemberReport, concerns
from blockpair.config.locations import locations
from blockpair.config.names import Address
from blockpair.config.node import NodeFile, node_config

GIB = 1 << 30
NOW = "2026-11-30T10:00:00Z"
COPY = CopyFacts("r0", "/dev/sda", 4 * GIB, 4 * GIB, 4096, ["valid", "valid"])
WELL = NodeFacts(
    node="a",
    version="1",
    member=True,
    kernel=KernelFacts("6.1", None, "loaded", "auto", None),
    watchdog=WatchdogFacts("required", "/dev/watchdog", True, "iTCO_wdt"),
    clock=ClockFacts(0.001),
    space=SpaceFacts("/var/lib/blockpair", 10 * GIB, 20 * GIB),
    arrays=[ArrayFacts("data", False, True, "survives any one failure", "", 0, False)],
    copies=[COPY],
    fences=[FenceFacts("b", "ipmi", True, None)],
    services=[ServiceFacts("r0", [])],
)
PEER = replace(WELL, node="b", fences=[FenceFacts("a", "ipmi", True, None)])


def way(origin: str, to: str, port: Any = "control", **more: Any) -> Way:
    known: dict[str, Any] = {
        "seconds": 0.0002,
        "interface": "eth1",
        "mtu": 1500,
        "mbps": 10000,
        "path_mtu": 1500,
    }
    return Way(origin, to, "10.0.0.2:7789", port, **{**known, **more})


WAYS = [way(*ends, port) for ends in (("a", "b"), ("b", "a")) for port in ("replication", "control")]


def examined(own: NodeFacts = WELL, **more: Any) -> Examination:
    known: dict[str, Any] = {"facts": {"b": PEER}, "ways": WAYS, "clocks": [Clocks("b", 0.002, 0.001)]}
    return examine(own, NOW, Others(**{**known, **more}))


def found(report: Examination, name: str, node: str = "a") -> list[Finding]:
    return [each for each in report.findings if (each.id, each.node) == (name, node)]


def test_where_all_is_well_every_check_says_so() -> None:
    report = examined()
    assert {each.severity for each in report.findings} == {"ok"}
    assert (report.worst, sound(report.worst)) == ("ok", True)
    assert {each.id for each in report.findings} == {
        *("files", "nbd", "io_uring", "watchdog", "clock", "space", "array", "metadata", "fencing"),
        *("service", "version", "size", "port", "latency", "link-rate", "mtu", "clock-offset"),
    }


def kernel(**more: Any) -> dict[str, Any]:
    return {"kernel": replace(WELL.kernel, **more)}


def dog(**more: Any) -> dict[str, Any]:
    return {"watchdog": replace(WELL.watchdog, **more)}


def array(**more: Any) -> dict[str, Any]:
    return {"arrays": [replace(WELL.arrays[0], **more)]}


def copy(**more: Any) -> dict[str, Any]:
    return {"copies": [replace(COPY, **more)]}


@pytest.mark.parametrize(
    ("name", "severity", "facts", "text"),
    [
        ("files", "error", {"unreadable": ["r1.toml: device: is missing"]}, "device: is missing"),
        ("nbd", "warning", kernel(nbd="missing"), "no nbd module"),
        ("nbd", "error", kernel(nbd="missing", wanted="required"), "no nbd module"),
        ("nbd", "ok", kernel(nbd="missing", wanted="off"), "switched off"),
        ("nbd", "ok", kernel(nbd="loadable"), "loaded when it is needed"),
        ("nbd", "warning", kernel(too_old="need Linux 5.14"), "5.14"),
        ("io_uring", "warning", kernel(io_uring="Operation not permitted"), "not permitted"),
        ("watchdog", "note", dog(mode="off"), "no watchdog"),
        ("watchdog", "error", dog(present=False), "is not there"),
        ("watchdog", "warning", dog(present=False, mode="log"), "is not there"),
        ("watchdog", "note", dog(identity="Software Watchdog"), "kernel's own"),
        ("clock", "note", {"clock": ClockFacts(None)}, "nothing synchronises"),
        ("clock", "warning", {"clock": ClockFacts(-2.0)}, "-2.0 s off"),
        ("space", "warning", {"space": SpaceFacts("/s", GIB // 4, GIB)}, "256 MiB of 1 GiB"),
        ("space", "error", {"space": SpaceFacts("/s", 1 << 20, GIB)}, "1 MiB"),
        ("array", "error", array(lost=True, survival="has lost data"), "has lost data"),
        ("array", "warning", array(sound=False, until_whole="3m"), "not whole"),
        ("array", "warning", array(mismatch_bytes=512), "512 B that may differ"),
        ("metadata", "error", copy(problem="no metadata"), "no metadata"),
        ("metadata", "warning", copy(superblocks=["valid", "damaged"]), "1 of 2"),
        ("metadata", "error", copy(superblocks=["damaged", "newer"]), "0 of 2"),
        ("metadata", "warning", copy(superblocks=["absent", "valid"]), "(absent)"),
        ("fencing", "error", {"fences": [FenceFacts("b", "ipmi", False, "no route")]}, "no route"),
        ("fencing", "note", {"fences": [FenceFacts("b", "ipmi", None, None)]}, "not been asked"),
        ("service", "error", {"services": [ServiceFacts("r0", ["there is no interface eth9"])]}, "eth9"),
        ("unseen", "note", {"unseen": ["arrays: for root alone"]}, "for root"),
    ],
)
def test_one_node(name: str, severity: str, facts: dict[str, Any], text: str) -> None:
    for own, other in ((replace(WELL, **facts), PEER), (WELL, replace(PEER, **facts))):
        [here] = [each for each in (own, other) if each not in (WELL, PEER)]
        [finding] = found(examined(own, facts={"b": other}), name, here.node)
        assert (finding.severity, text in finding.what) == (severity, True), finding
        assert severity == "ok" or finding.remedy


@pytest.mark.parametrize(
    ("name", "severity", "changed", "text"),
    [
        ("port", "error", way("a", "b", "replication", why="Connection refused", seconds=None), "refused"),
        ("port", "error", way("a", "b", "control", why="no answer within 3 s", seconds=None), "no answer"),
        ("port", "error", way("a", "b", "control", large="no answer"), "not to what is large"),
        ("latency", "warning", way("a", "b", seconds=0.02), "20.0 ms"),
        ("link-rate", "warning", way("a", "b", mbps=100), "100 Mbit/s"),
        ("link-rate", "warning", way("a", "b", half_duplex=True), "half duplex"),
        ("mtu", "warning", way("a", "b", mtu=9000, path_mtu=9000), "MTU 9000"),
        ("mtu", "warning", way("a", "b", path_mtu=1400), "1400 bytes pass"),
    ],
)
def test_ways(name: str, severity: str, changed: Way, text: str) -> None:
    ways = [changed, *(one for one in WAYS if (one.origin, one.port) != (changed.origin, changed.port))]
    if name in ("latency", "link-rate"):
        ways = [one for one in ways if one is changed or one.origin == "b"]
    told = [each for each in found(examined(ways=ways), name) if each.severity == severity]
    assert [text in each.what for each in told] == [True], told
    assert told[0].remedy and told[0].why


def test_only_who_dials_must_reach_the_replication_port() -> None:
    ways = [way("b", "a", "replication", why="no answer within 3 s", seconds=None)]
    [finding] = found(examined(ways=ways), "port", "b")
    assert finding.severity == "warning"


def test_the_loopback_is_no_narrow_way() -> None:
    ways = [way(*ends, interface="lo", mtu=65536, path_mtu=65535) for ends in (("a", "b"), ("b", "a"))]
    assert {each.severity for each in found(examined(ways=ways), "mtu")} == {"ok"}


@pytest.mark.parametrize(
    ("ahead", "give_or_take", "severity"),
    [(0.9, 0.0, "ok"), (1.5, 0.6, "ok"), (-1.5, 0.1, "warning"), (-7200.0, 0.1, "error")],
)
def test_clocks_that_are_apart(ahead: float, give_or_take: float, severity: str) -> None:
    [finding] = found(examined(clocks=[Clocks("b", ahead, give_or_take)]), "clock-offset")
    assert finding.severity == severity
    assert severity == "ok" or "behind" in finding.what


def test_what_must_be_the_same_on_both() -> None:
    assert found(examined(facts={"b": replace(PEER, version="2")}), "version")[0].severity == "warning"
    for changed in (replace(COPY, data_bytes=GIB), replace(COPY, block_bytes=8192)):
        [finding] = found(examined(facts={"b": replace(PEER, copies=[changed])}), "size")
        assert finding.severity == "error" and "do not connect" in finding.why


def test_a_node_that_does_not_answer_is_an_error() -> None:
    [finding] = found(examined(facts={"b": "b cannot be reached: no answer"}), "peer")
    assert finding.severity == "error" and "no answer" in finding.what


def test_the_gravest_comes_first_and_counts() -> None:
    some = [Finding("x", "a", severity, severity) for severity in ("ok", "warning", "note", "error", "ok")]
    assert [each.severity for each in ordered(some)] == ["error", "warning", "note", "ok", "ok"]
    assert (worst(some), worst(some[:3]), worst([])) == ("error", "warning", "ok")
    assert [sound(each) for each in ("ok", "note", "warning", "error")] == [True, True, False, False]


def test_without_a_daemon_that_is_an_error_only_where_there_should_be_one() -> None:
    fresh = replace(WELL, member=False, copies=[])
    for facts, severity in ((WELL, "error"), (fresh, "note")):
        [finding] = found(examine_alone(facts, NOW, "nobody listens", []), "daemon")
        assert finding.severity == severity
    [port] = found(examine_alone(fresh, NOW, "", ["0.0.0.0:7788: Address already in use"]), "port")
    assert port.severity == "error" and "7788" in port.what


def cluster(**more: Any) -> list[Finding]:
    report = ClusterReport(
        **{
            "node": "a",
            "state": "member",
            "cluster": "east",
            "configuration": "2-x",
            "authority_expires": "2036-01-01T00:00:00Z",
            "arbiter": ArbiterLook("witness", "witness w:7790", True, None, 0.002),
            "members": [member("a", here=True), member("b")],
            **more,
        }
    )
    return list(cluster_findings(report, concerns(report, datetime(2026, 11, 30, tzinfo=UTC))))


def member(name: str, *, here: bool = False, **more: Any) -> MemberReport:
    known = {"reachable": True, "configuration": "2-x", "certificate_expires": "2027-11-30T00:00:00Z"}
    return MemberReport(name, ["10.0.0.2"], 7788, 7789, here, **{**known, **more})


def test_the_cluster() -> None:
    def severities(**more: Any) -> dict[str, str]:
        return {each.id: each.severity for each in cluster(**more)}

    well = {"certificate": "ok", "configuration": "ok", "arbiter": "ok"}
    assert severities() == well
    assert severities(arbiter=None) == {**well, "arbiter": "note"}
    unreachable = ArbiterLook("witness", "witness w:7790", False, "no answer")
    assert severities(arbiter=unreachable) == {**well, "arbiter": "error"}
    apart = [member("a", here=True), member("b", configuration="1-y")]
    assert severities(members=apart) == {**well, "configuration": "warning"}
    away = [member("a", here=True), member("b", reachable=False, why="no answer", configuration=None)]
    assert severities(members=away) == {"certificate": "ok", "arbiter": "ok", "member": "error"}
    old = [member("a", here=True), member("b", certificate_expires="2026-12-10T00:00:00Z")]
    assert severities(members=old) == {**well, "certificate": "warning"}
    assert severities(authority_expires="2026-11-01T00:00:00Z") == {**well, "certificate": "error"}
    assert severities(state="none") == {"member": "note"}
    assert severities(state="failed", failure="no key") == {"member": "error"}


def test_a_person_reads_what_to_do() -> None:
    report = examined(replace(WELL, **copy(superblocks=["valid", "damaged"])))
    told = [line.plain for line in lines(report)]
    assert told[0] == "node a  blockpair 1"
    assert told[1].startswith("warning metadata") and told[3].lstrip().startswith("next: the next change")
    assert told[-1].startswith("0 errors, 1 warning, 0 notes; ")


def test_a_long_code_is_kept_from_the_text() -> None:
    report = examined(WELL)
    long = replace(report.findings[0], id="service-failed", what="r0: the service is not up")
    told = [line.plain for line in lines(replace(report, findings=[long]))]
    assert "service-failed r0: the service is not up" in told[1]


def test_facts_cross_to_the_other_node_as_they_are() -> None:
    assert msgspec.convert(msgspec.to_builtins(WELL), NodeFacts) == WELL
    assert msgspec.convert(msgspec.to_builtins(WAYS), list[Way]) == WAYS


def test_this_machine_is_looked_at_before_anything_is_installed(tmp_path: Path) -> None:
    node = node_config(NodeFile(), tmp_path / "blockpair.toml", "here")
    facts = gather(node, locations(directory=str(tmp_path / "none")))
    assert (facts.member, facts.copies, facts.unreadable) == (False, [], [])
    assert facts.space is not None and 0 < facts.space.free_bytes <= facts.space.total_bytes
    assert not (tmp_path / "none").exists()


def test_a_resource_whose_file_or_device_cannot_be_used_is_told(tmp_path: Path) -> None:
    places = locations(directory=str(tmp_path))
    places.resources.mkdir(parents=True)
    form = (
        'device = "{}"\nmetadata = "internal"\ntls = "off"\n[[peer]]\nname = "b"\naddress = "127.0.0.1:1"\n'
    )
    places.resource_file("r0").write_text(form.format(tmp_path / "nothing"))
    places.resource_file("r1").write_text("device = 1\n")
    (tmp_path / "empty").touch()
    places.resource_file("r2").write_text(form.format(tmp_path / "empty"))
    facts = gather(node_config(NodeFile(), tmp_path / "blockpair.toml", "here"), places)
    assert [one.name for one in facts.copies] == ["r0", "r2"]
    assert all(one.problem for one in facts.copies)
    assert "nothing" in str(facts.copies[0].problem)
    assert len(facts.unreadable) == 1 and "r1.toml" in facts.unreadable[0]


def test_a_port_that_another_program_has_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        node = node_config(NodeFile(), tmp_path / "blockpair.toml", "here")
        listen, control = Address("127.0.0.1", port), Address("127.0.0.1", 0)
        taken = taken_ports(dataclasses.replace(node, listen=listen, control=control))
    assert taken == [f"127.0.0.1:{port}: Address already in use"]
