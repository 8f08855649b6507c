"""Audits of a live pair: each exit code, the report, and a cron line as cron runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.test_metrics import Metered, asked_for
from tests.e2e.test_verify import BLOCK, SIZE, flip

SLOW = 256 << 10


def run(node: Node, **params: Any) -> tuple[int, dict[str, str]]:
    """An audit: its exit code, and the outcomes by resource."""
    record = node.rpc("audit.run", **params)
    return record["code"], {result["name"]: result["outcome"] for result in record["results"]}


def as_cron(node: Node) -> int:
    """Run the line that is installed as cron does: by sh, with nothing but the file's PATH."""
    file = node.dir / "etc/cron.d/blockpair-audit"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    [setting] = [line for line in lines if line.startswith("PATH=")]
    [line] = [line for line in lines if line[0].isdigit()]
    *_, user, command = line.split(maxsplit=6)
    assert user == "root"
    environment = {"PATH": setting.removeprefix("PATH="), "SHELL": "/bin/sh"}
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace("\\%", "%")], env=environment, timeout=90, check=False
    )
    return done.returncode


def test_each_exit_code_is_right_and_the_report_says_why(cluster: Cluster) -> None:
    a, b = cluster.nodes
    metered = Metered(a)
    cluster.form()
    for node in cluster.nodes:
        node.disk.write_bytes(bytes(SIZE))
    a.ok("create", "r0", "--on", f"a={a.disk},b={b.disk}")
    a.rpc("resource.sync", name="r0", source="a")
    a.wait("synced")
    a.rpc("resource.promote", name="r0")
    a.write(0, os.urandom(64 << 10))

    # Not finished in time: the next one goes on.
    assert run(a, max_seconds=4.0, max_rate=SLOW) == (4, {"r0": "unfinished"})
    before = a.rpc("verify_report", name="r0")
    assert before["ended"] == "stopped" and 0 < before["done_bytes"] < SIZE
    words = [sys.executable, "-m", "blockpair.cli.main", "audit", "run", "--max-rate", str(SLOW)]
    with subprocess.Popen(words, env=a.environment, stdout=subprocess.DEVNULL) as caller:
        eventually(lambda: a.rpc("verify_report", name="r0")["running"], "an audit compares")
        caller.kill()
    # Whoever asked for it has hung up.
    eventually(lambda: not a.rpc("verify_report", name="r0")["running"], "it has stopped")

    # Identical, by the line that cron would run; what another node leads is left to it.
    told = a.ok("audit", "schedule", "--cron", "--at", "Sun 02:00", "--max-time", "10m").out
    assert "0 2 * * 0 root nice -n 19" in told and "--max-time 10m" in told
    assert as_cron(a) == 0
    assert "r0: identical" in (a.dir / "audit.log").read_text()
    assert run(b) == (0, {"r0": "left"})
    assert a.rpc("resource.status")["resources"][0]["verify"]["proved_share"] == 1.0
    assert "(100 %), 0 findings" in a.ok("audit", "report").out + a.ok("status", "r0").out

    # A difference is found, shown, and heard.
    flip(b.disk, 100 * BLOCK, 1)
    assert as_cron(a) == 3
    page = a.ok("audit", "report", "--html").out
    assert "Copies differ in 1 place" in page and f">{100 * BLOCK}<" in page and 'class="found"' in page
    assert "Copies differ" in a.ok("audit", "report", "--md").out
    report = a.cli("audit", "report", "--json").json()
    assert (report["schema"], report["last"]["code"]) == ("blockpair.audit/1", 3)
    assert {finding["id"] for finding in report["checks"]["findings"]} >= {"metadata", "port", "files"}
    [ended] = [event for event in _events(a, "audit.finished") if event["severity"] == "error"]
    assert "copies differ" in ended["text"]
    found = metered.values()
    assert (asked_for("audit_") | asked_for("verify_")) <= set(found)
    assert metered.value("blockpair_audit_last_exit_code") == 3
    assert metered.value("blockpair_verify_findings", resource="r0") == 1

    # It could not run.
    b.kill()
    eventually(lambda: run(a)[0] in (1, 3), "without b nothing is compared")
    result = a.rpc("audit.report")["last"]["results"][0]
    assert (result["outcome"], result["why"]) == ("failed", "b is not connected")
    a.stop()
    assert as_cron(a) == 1
    a.ok("audit", "schedule", "--remove")
    assert not (a.dir / "etc/cron.d/blockpair-audit").exists()
    assert "no audit is scheduled" in a.ok("audit", "schedule").out


def _events(node: Node, kind: str) -> list[Any]:
    found: list[Any] = node.rpc("events.read", kinds=[kind])["events"]
    return found
