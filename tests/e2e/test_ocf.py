"""The OCF resource agent's actions against real daemons, as Pacemaker calls them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blockpair.ocf import Code
from tests import unpacked
from tests.e2e.cluster import Cluster, Node, eventually

AGENT = Path(__file__).parents[2] / "packaging/ocf/blockpair"
# The tester runs the agent as the user "nobody", who may not enter every home directory that a checkout or an
# interpreter is in. So that user may search directories here; whether it may execute the agent is still seen.
_SU = """\
#!/bin/sh
[ "$1 $2 $4" = "nobody -s -c" ] || exit 99
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+dac_read_search \\
    --ambient-caps -all,+dac_read_search "$3" -c "$5"
"""


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


@pytest.fixture(scope="module")
def resource_agents() -> Path:
    """The package that has ocf-tester, unpacked."""
    root = unpacked.cache_dir() / "resource-agents"
    try:
        unpacked.ensure("resource-agents", root, lambda _: "resource-agents")
    except unpacked.PackageUnavailable as error:
        pytest.skip(str(error))
    return root


@pytest.mark.skipif(
    not all(map(shutil.which, ("xmllint", "setpriv"))),
    reason="needs xmllint and setpriv: ./scripts/setup --for test",
)
def test_it_passes_the_checks_of_ocf_tester(cluster: Cluster, base: Path, resource_agents: Path) -> None:
    cluster.synced()
    a = cluster.a
    programs = base / "bin"
    programs.mkdir()
    tester = programs / "ocf-tester"
    # It looks for the DTD where the package is installed.
    text = (resource_agents / "usr/sbin/ocf-tester").read_text()
    assert "DATADIR=/usr/share\n" in text
    tester.write_text(text.replace("DATADIR=/usr/share\n", f"DATADIR={resource_agents}/usr/share\n"))
    (programs / "su").write_text(_SU)
    agent_program = programs / "blockpair-ocf"
    agent_program.write_text(f'#!/bin/sh\nexec {sys.executable} -m blockpair.ocf "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    parameters = ["-o", "resource=r0", "-o", f"directory={a.dir}"]
    words = [str(tester), "-n", "data", *parameters, str(AGENT)]
    environment = {
        **a.environment,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(AGENT.parents[2]),
        "OCF_ROOT": str(resource_agents / "usr/lib/ocf"),
    }
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )
    assert done.returncode == 0 and "passed all tests" in done.stdout, done.stdout + done.stderr
    # It could be asked all that matters: what it leaves out is optional.
    assert "support promotable" not in done.stdout and "* rc" not in done.stdout
    assert act(a, "monitor") is Code.NOT_RUNNING
