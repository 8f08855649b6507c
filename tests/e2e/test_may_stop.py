"""Whether a node may go down: exit codes, and the inhibitor that keeps it up meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually

# What systemd-inhibit is for this: a program that runs another one, and holds the lock until that has ended.
_INHIBIT = """#!/bin/sh
echo "$@" >> "{log}"
while [ "${{1#--}}" != "$1" ]; do shift; done
touch "{held}"
"$@"
rm "{held}"
"""


def codes(node: Node) -> list[str]:
    """The codes of what keeps a node up."""
    done = node.cli("may-stop", "--json")
    answer = done.json()
    assert done.code == (0 if answer["may_stop"] else 3)
    return [obstacle["code"] for obstacle in answer["obstacles"]]


def test_a_node_may_stop_when_nothing_is_lost_by_it(cluster: Cluster) -> None:
    cluster.start()
    a, b = cluster.nodes
    assert codes(a) == []
    cluster.create()
    cluster.up()
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    b.wait("synced")
    assert codes(a) == codes(b) == []
    a.ok("promote", "r0")
    assert codes(a) == ["in-use"] and codes(b) == []
    said = a.cli("may-stop")
    assert said.code == 3 and "blockpair switchover r0" in said.out
    # The other one has gone: now this copy is the only one.
    a.ok("demote", "r0")
    b.stop()
    a.wait("disconnected")
    assert codes(a) == ["only-copy"]
    assert a.cli("may-stop", "--wait", "--timeout", "0.2s").code == 3
    waiting = subprocess.Popen(
        [sys.executable, "-m", "blockpair.cli.main", "may-stop", "--wait", "--timeout", "60s"],
        env=a.environment,
    )
    b.start()
    assert waiting.wait(timeout=60) == 0
    a.ok("down", "r0")
    assert codes(a) == []


def test_without_a_daemon_it_says_so(cluster: Cluster) -> None:
    assert cluster.a.cli("may-stop").code == 5


@pytest.mark.parametrize("options", [["--timeout", "1s"], ["--inhibit", "--wait"], ["--inhibit", "--json"]])
def test_options_that_do_not_go_together_are_refused(cluster: Cluster, options: list[str]) -> None:
    assert cluster.a.cli("may-stop", *options).code == 2


def test_the_inhibitor_is_held_while_the_node_is_needed_and_no_longer(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.synced()
    a = cluster.a
    log, held = tmp_path / "log", tmp_path / "held"
    program = tmp_path / "systemd-inhibit"
    program.write_text(_INHIBIT.format(log=log, held=held))
    program.chmod(0o755)
    environment = {**a.environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "blockpair.cli.main", "may-stop", "--inhibit"]
    with subprocess.Popen(command, env=environment) as holder:
        eventually(held.exists, "it is held while a is Primary")
        assert "--mode=block" in log.read_text() and "a is Primary of r0" in log.read_text()
        a.ok("demote", "r0")
        eventually(lambda: not held.exists(), "it is released when a is needed no more")
        a.ok("promote", "r0")
        eventually(held.exists, "it is held again")
        # A daemon that restarts says nothing for a moment.
        a.stop()
        a.start()
        assert len(log.read_text().splitlines()) == 2 and held.exists()
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(timeout=30) == 0
    eventually(lambda: not held.exists(), "it goes with the holder")


def test_a_holder_that_is_killed_holds_nothing(cluster: Cluster, tmp_path: Path) -> None:
    cluster.synced()
    held = tmp_path / "held"
    program = tmp_path / "systemd-inhibit"
    program.write_text(_INHIBIT.format(log=tmp_path / "log", held=held))
    program.chmod(0o755)
    environment = {**cluster.a.environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "blockpair.cli.main", "may-stop", "--inhibit"]
    with subprocess.Popen(command, env=environment) as holder:
        eventually(held.exists, "it is held")
        holder.kill()
    eventually(lambda: not held.exists(), "nobody holds it")


def test_where_nothing_can_hold_a_node_that_is_needed_the_holder_says_so(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.synced()
    environment = {**cluster.a.environment, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "blockpair.cli.main", "may-stop", "--inhibit"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "systemd-inhibit cannot be started" in done.stderr
