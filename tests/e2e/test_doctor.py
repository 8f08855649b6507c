"""`blockpair doctor` on live nodes: all is well, and then not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.duo import Duo

# What a machine that runs tests may lack, and the tests need not.
OF_THE_MACHINE = {"io_uring", "clock", "space", "array", "unseen", "link-rate", "latency"}


def told(report: Any) -> dict[tuple[str, str], str]:
    """The gravest severity of each check on each node, but for what is the machine's."""
    grave: dict[tuple[str, str], str] = {}
    for finding in report["findings"]:
        if finding["id"] not in OF_THE_MACHINE:
            grave.setdefault((finding["id"], finding["node"]), finding["severity"])
    return grave


def not_well(node: Node) -> dict[tuple[str, str], str]:
    """What a node's daemon finds that somebody has to do something about."""
    found = told(node.rpc("node.checks"))
    return {check: severity for check, severity in found.items() if severity in ("warning", "error")}


@pytest.fixture
def wired(base: Path) -> Iterator[Duo]:
    """a reaches b by wires that can be cut; the fence devices answer, and nobody is switched off."""
    with closing(Duo(base, wired=True)) as made:
        made.modes = {"a": "fails:off", "b": "fails:off"}
        yield made


def test_a_pair_that_is_well_and_then_not(wired: Duo) -> None:
    """Each node tells what is wrong on either of them, and which way between them leads nowhere."""
    a, b = wired.a, wired.b
    wired.synced()

    def refused() -> int:
        return a.log.read_text().count("peer.refused") + b.log.read_text().count("peer.refused")

    before = refused()
    eventually(lambda: not_well(a) == {}, "all is well")
    report = b.cli("doctor", "--json").json()
    assert (report["schema"], report["node"], report["daemon"]) == ("blockpair.checks/1", "b", True)
    found = told(report)
    for check in ("metadata", "fencing", "port", "files", "nbd"):
        assert {found[check, node] for node in "ab"} == {"ok"}, check
    assert found["size", "b"] == found["version", "b"] == found["certificate", "b"] == "ok"
    # Whoever only looks whether a port is open is no stranger.
    assert refused() == before

    hook = a.dir / "not-a-program"
    hook.write_text("#!/bin/sh\n")
    wants = ["--mount", str(a.dir / "data"), "--vip", "192.0.2.10/24@eth9", "--promoted", str(hook)]
    a.ok("service", "set", "r0", *wants)
    eventually(lambda: ("service", "b") in told(b.rpc("node.checks")), "the other node knows the service")
    findings = b.rpc("node.checks")["findings"]
    lacks = {each["node"]: each["what"] for each in findings if each["id"] == "service"}
    for node in "ab":
        for what in (f"{a.dir}/data is not there", "no interface eth9", f"the hook {hook} is not"):
            assert what in lacks[node]
    (a.dir / "data").mkdir()
    hook.chmod(0o755)
    a.ok("service", "set", "r0", "--vip", "192.0.2.10/24@lo")

    def services() -> set[str]:
        return {severity for (check, _), severity in told(b.rpc("node.checks")).items() if check == "service"}

    eventually(lambda: services() == {"ok"}, "what the service wants is there")
    a.ok("service", "clear", "r0")
    eventually(lambda: not_well(a) == not_well(b) == {}, "there is no service any more")

    offset = b.rpc("resource.metadata", name="r0")["metadata"]["layout"]["superblock"][1]
    with (b.dir / "state/metadata/r0.meta").open("r+b") as metadata:
        metadata.seek(offset)
        metadata.write(b"not a superblock")
    assert not_well(a) == {("metadata", "b"): "warning"}

    wired.cut()
    # The wire itself goes on taking connections: what leads through it shows by a call.
    ports = [each for each in b.rpc("node.checks")["findings"] if "control port" in each["what"]]
    assert {(each["node"], each["severity"]) for each in ports} == {("a", "error"), ("b", "ok")}
    done = a.cli("doctor")
    assert done.code == 4
    assert "b could not be examined" in done.out and "control port 127.0.0.2" in done.out
    assert "next: see that blockpaird runs on b" in done.out


def test_without_a_daemon_the_node_itself_is_looked_at(cluster: Cluster) -> None:
    done = cluster.a.cli("doctor", "--json")
    report = done.json()
    assert report["daemon"] is False
    assert told(report)["daemon", "a"] == "note" and told(report)["files", "a"] == "ok"
    cluster.start(cluster.a)
    (cluster.a.disk).write_bytes(bytes(8 << 20))
    cluster.a.ok("create", "r0", "--device", str(cluster.a.disk), *cluster.peer_option(cluster.a))
    cluster.a.kill()
    report = cluster.a.cli("doctor", "--json").json()
    assert told(report)["daemon", "a"] == "error" and told(report)["metadata", "a"] == "ok"
