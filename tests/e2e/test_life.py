"""A resource's life on two nodes, through the command line alone."""

from __future__ import annotations

import contextlib
import json

from blockpair.errors import BlockpairError
from blockpair.rpc.client import Client
from tests.e2e.cluster import Cluster, eventually


def test_from_nothing_to_a_mirror_and_back(cluster: Cluster) -> None:
    cluster.start()
    cluster.create()
    a, b = cluster.nodes
    status = a.cli("status")
    assert status.code == 4 and "blockpair up r0" in status.out
    cluster.up()
    assert "--from NODE" in a.cli("status").out
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    b.wait("synced")
    assert "blockpair promote r0" in a.ok("status").out
    assert "nbd+unix" in a.ok("promote", "r0").out
    a.write(0, b"x" * 4096)
    a.write(8 << 20, b"y" * 8192)
    assert a.read(8 << 20, 8192) == b"y" * 8192
    report = a.ok("status", "--json").json()
    assert report["healthy"] and report["resources"][0]["engine"]["role"] == "Primary"
    a.ok("demote", "r0")
    assert not a.nbd.exists()
    for node in cluster.nodes:
        node.ok("down", "r0")
    assert a.disk.read_bytes() == b.disk.read_bytes()
    a.ok("delete", "r0", "--yes")
    assert a.ok("status", "--json").json()["resources"] == []
    assert a.disk.exists() and not (a.dir / "state/metadata/r0.meta").exists()


def test_writes_while_disconnected_are_resynced(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.ok("disconnect", "r0")
    a.wait("standalone")
    a.write(4096, b"z" * 65536)
    report = a.status()
    assert report["engine"]["peers"][0]["out_of_sync_bytes"] == 65536
    assert [entry["code"] for entry in report["advice"]] == ["disconnected"]
    a.ok("connect", "r0")
    done = a.ok("sync", "r0", "--wait", "--timeout", "60s")
    assert "in sync" in done.err
    b.wait("synced")
    for node in cluster.nodes:
        node.ok("down", "r0")
    assert a.disk.read_bytes() == b.disk.read_bytes()


def test_a_daemon_killed_while_primary_comes_back_primary(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(0, b"before.." * 512)
    a.kill()
    assert a.cli("status").code == 5
    b.wait("disconnected")
    a.start()
    a.wait("primary,synced")
    assert a.read(0, 4096) == b"before.." * 512
    a.write(0, b"after..." * 512)
    assert cluster.a.status()["engine"]["role"] == "Primary"
    assert b.status()["engine"]["role"] == "Secondary"


def test_a_daemon_stopped_in_good_order_loses_nothing(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.ok("disconnect", "r0", "--peer", "b")
    a.wait("standalone")
    assert a.stop() == 0
    a.start()
    # The disconnect holds over a restart, and so does the role.
    a.wait("primary,standalone")
    a.ok("connect", "r0")
    a.wait("synced")
    b.ok("down", "r0")
    assert b.stop() == 0
    b.start()
    b.wait("down", timeout="5s")


def test_the_survivor_is_promoted_after_the_primary_is_killed(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(12288, b"kept" * 1024)
    a.kill()
    b.wait("disconnected")
    promoted = b.cli("promote", "r0")
    if promoted.code != 0:
        assert promoted.code == 3 and "remedy" in promoted.err
        b.ok("promote", "r0", "--force", "--yes")
    assert b.read(12288, 4096) == b"kept" * 1024


def test_watch_prints_a_line_a_second(cluster: Cluster) -> None:
    import signal
    import subprocess
    import sys

    cluster.a.start()
    watching = subprocess.Popen(
        [sys.executable, "-m", "blockpair.cli.main", "status", "--watch", "--json"],
        env=cluster.a.environment,
        stdout=subprocess.PIPE,
    )
    assert watching.stdout is not None
    try:
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["schema"] == "blockpair.status/1"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    finally:
        watching.kill()
        watching.stdout.close()


def test_a_panic_stops_its_resource_alone(cluster: Cluster) -> None:
    cluster.start()
    cluster.create()
    a = cluster.a
    other = a.dir / "other"
    with other.open("wb") as file:
        file.truncate(4 << 20)
    a.ok("create", "r1", "--device", str(other), *cluster.peer_option(a))
    a.ok("up", "r0")
    a.ok("up", "r1")
    with Client(a.dir / "run/blockpaird.sock") as client, contextlib.suppress(BlockpairError):
        client.call_raw("resource.fault", {"name": "r1", "what": "panic"})

    def failed() -> bool:
        states = {r["name"]: r["state"] for r in a.cli("status", "--json").json()["resources"]}
        assert states["r0"] == "running"
        return bool(states["r1"] == "failed")

    eventually(failed, "r1 has failed, alone")
    assert "failed" in a.refused(1, "wait", "r1", "--until", "connected")
    a.ok("down", "r1")
    a.ok("up", "r1")
    a.wait("up", "r1")


def test_only_the_metadata_of_that_copy_go_with_a_resource(cluster: Cluster) -> None:
    """What names a file, be it a member's word or a person's, does not make it this copy's."""
    cluster.start()
    cluster.create()
    a = cluster.a
    precious = a.dir / "precious"
    precious.write_bytes(b"no metadata" * 4096)
    file = a.dir / "config/resources/r0.toml"
    named = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("metadata"))
    file.write_text(f'metadata = "{precious}"\n{named}\n')
    assert f"{precious} stays" in a.ok("delete", "r0", "--yes").out
    assert precious.read_bytes() == b"no metadata" * 4096
