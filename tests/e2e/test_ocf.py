"""The OCF resource agent's actions against real daemons, as Pacemaker calls them."""

from __future__ import annotations

import subprocess
import sys

from blockpair.ocf import Code
from tests.e2e.cluster import Cluster, Node, eventually


def act(node: Node, action: str, resource: str = "r0") -> Code:
    """An action on a node; it always says why it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "blockpair.ocf", action],
        env={**node.environment, "OCF_RESKEY_resource": resource, "OCF_RESKEY_directory": str(node.dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    code = Code(done.returncode)
    if code in (Code.ARGS, Code.CONFIGURED, Code.INSTALLED):
        assert done.stderr.startswith("blockpair-ocf: ")
    return code


def test_the_life_of_a_promotable_clone(cluster: Cluster) -> None:
    a, b = cluster.nodes
    assert act(a, "monitor") is Code.NOT_RUNNING
    cluster.start()
    assert act(a, "validate-all", "r9") is Code.CONFIGURED
    assert act(a, "monitor", "r9") is Code.NOT_RUNNING
    cluster.create()
    for node in cluster.nodes:
        assert act(node, "validate-all") is Code.SUCCESS
        assert act(node, "monitor") is Code.NOT_RUNNING
        assert act(node, "promote") is Code.NOT_RUNNING
        # Each action once more: the same.
        for _ in (1, 2):
            assert act(node, "start") is Code.SUCCESS
            assert act(node, "monitor") is Code.SUCCESS
    # Nobody has data yet: a copy that is not good is not promoted.
    assert act(a, "promote") is Code.GENERIC
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    b.wait("synced")
    for _ in (1, 2):
        assert act(a, "promote") is Code.SUCCESS
        assert act(a, "monitor") is Code.RUNNING_PROMOTED
    assert act(b, "promote") is Code.GENERIC
    a.write(0, b"x" * 4096)
    for _ in (1, 2):
        assert act(a, "demote") is Code.SUCCESS
        assert act(a, "monitor") is Code.SUCCESS
    assert act(b, "promote") is Code.SUCCESS
    assert b.read(0, 4096) == b"x" * 4096
    # Stopped while promoted, and twice.
    for node in (b, a):
        for _ in (1, 2):
            assert act(node, "stop") is Code.SUCCESS
            assert act(node, "monitor") is Code.NOT_RUNNING


def test_a_primary_whose_daemon_is_gone_has_failed_and_comes_back_as_secondary(cluster: Cluster) -> None:
    cluster.synced()
    a = cluster.a
    assert act(a, "monitor") is Code.RUNNING_PROMOTED
    a.kill()
    assert act(a, "monitor") is Code.FAILED_PROMOTED
    assert act(a, "stop") is Code.GENERIC
    a.start()
    eventually(lambda: act(a, "monitor") is Code.RUNNING_PROMOTED, "it is Primary again")
    assert act(a, "start") is Code.SUCCESS
    assert act(a, "monitor") is Code.SUCCESS
