"""Both copies are compared while they are in use: what differs is found and mended, and nothing is imagined.

``BLOCKPAIR_VERIFY_SECONDS`` is for how long the full write load lasts under which nothing may be found (3).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.nbd_client import Command, NbdClient

BLOCK = 4096
SIZE = 16 << 20
_DEPTH = 32


def flip(file: Path, offset: int, length: int, bit: int = 1) -> None:
    """What no one writes through blockpair changes on a disk."""
    with file.open("r+b") as disk:
        disk.seek(offset)
        changed = bytes(byte ^ bit for byte in disk.read(length))
        disk.seek(offset)
        disk.write(changed)
        disk.flush()
        os.fsync(disk.fileno())


def report(node: Node) -> Any:
    return node.rpc("verify_report", name="r0")


def offsets(node: Node, *states: str) -> list[int]:
    found = report(node)["findings"]
    return [finding["offset"] for finding in found if finding["state"] in (states or ("found", "confirmed"))]


def test_what_differs_on_either_side_is_found_kept_and_mended(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(0, os.urandom(64 << 10))
    told = a.ok("verify", "r0", "--wait").out
    assert "r0: identical, 16 MiB compared" in told
    for node in cluster.nodes:
        assert "(100 %), 0 findings" in node.ok("status", "r0").out
    refused = b.refused(1, "verify", "r0", "--range", "4K-8K")
    assert "a is Primary" in refused and "on a: blockpair verify r0 --wait --range 4096-8192" in refused
    assert "nothing to repair" in a.refused(1, "verify", "r0", "--repair")
    # One bit, one block, a region; on either side.
    flip(b.disk, 5 * BLOCK + 17, 1)
    flip(a.disk, 1000 * BLOCK, BLOCK)
    flip(b.disk, 2048 * BLOCK, 1 << 20)
    planted = [5 * BLOCK, 1000 * BLOCK, *range(2048 * BLOCK, 2304 * BLOCK, BLOCK)]
    kept, lost = a.disk.read_bytes(), b.disk.read_bytes()
    done = a.cli("verify", "r0", "--wait", "--json")
    assert (done.code, done.json()["ended"]) == (3, "differences")
    assert offsets(a) == planted
    eventually(lambda: offsets(b) == planted, "the other node has them too")
    [one, theirs] = [report(node)["findings"][0] for node in cluster.nodes]
    assert (one["local"], one["peer"]) == (theirs["peer"], theirs["local"])
    codes = [advice["code"] for advice in a.cli("status", "r0", "--json").json()["resources"][0]["advice"]]
    assert "findings" in codes
    events = a.ok("events", "r0", "--json").out
    assert "verify.found" in {json.loads(line)["what"] for line in events.splitlines()}
    # Neither a restart nor a new connection settles anything, and nothing is overwritten.
    b.kill()
    b.start()
    a.wait("synced")
    a.ok("disconnect", "r0")
    a.ok("connect", "r0")
    for node in cluster.nodes:
        node.wait("synced")
        assert offsets(node) == planted
    assert (a.disk.read_bytes(), b.disk.read_bytes()) == (kept, lost)
    # Found again, they are confirmed.
    assert a.cli("verify", "r0", "--range", "4K-1M", "--wait").code == 3
    assert offsets(a, "confirmed") == planted[:1]
    assert "on a: blockpair verify r0 --repair" in b.refused(3, "verify", "r0", "--repair", "--yes")
    assert "258 blocks (1.01 MiB) of b are overwritten with those of a" in a.refused(
        2, "verify", "r0", "--repair"
    )
    assert b.disk.read_bytes() == lost
    assert a.cli("verify", "r0", "--repair", "--yes").code == 0
    for node in cluster.nodes:
        eventually(lambda node=node: offsets(node, "repaired") == planted, "all are mended")  # type: ignore[misc]
    assert cluster.assert_equal() == kept
    [bundle] = b.ok("bundle", "list", "--json").json()
    saved = b.ok("bundle", "show", bundle["path"], "--json").json()["facts"]
    assert (saved["rule"], saved["peer"], saved["blocks"]) == ("verify", "a", len(planted))
    assert a.cli("verify", "r0", "--wait").code == 0
    # Nobody is Primary: whose copy is right, nobody can say.
    flip(b.disk, 0, 1)
    a.ok("demote", "r0")
    assert b.cli("verify", "r0", "--range", "0-4K", "--wait").code == 3
    assert "blockpair promote r0" in b.refused(3, "verify", "r0", "--repair", "--yes")
    b.ok("verify", "r0", "--waive", "--yes")
    assert b.cli("verify", "r0", "--report").code == 0


def test_a_daemon_that_is_killed_in_the_middle_goes_on_there(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    flip(b.disk, SIZE - BLOCK, 1)
    a.ok("verify", "r0", "--max-rate", "4M")
    eventually(lambda: report(a)["done_bytes"] >= 6 << 20, "a part of it is behind")
    # What is proved is written down now and then; a good end writes all of it.
    a.stop()
    before = report(b)["proved"]
    a.start()
    resumed = int(time.time())
    a.wait("primary")
    assert a.cli("verify", "r0", "--wait").code == 3
    proved = report(a)["proved"]
    assert offsets(a) == [SIZE - BLOCK]
    assert proved[0] is not None and proved[0] < resumed, "what was proved before is not compared again"
    assert before[0] is not None
    assert None not in proved[:-1] and proved[-1] is None
    b.stop()
    b.start()
    assert offsets(b) == [SIZE - BLOCK]


def test_a_full_write_load_is_no_difference(cluster: Cluster) -> None:
    seconds = float(os.environ.get("BLOCKPAIR_VERIFY_SECONDS", "3"))
    cluster.synced()
    runs, written = 0, 0
    chosen = random.Random(8)
    until = time.monotonic() + seconds
    with NbdClient(cluster.a.nbd) as client:
        verify = None
        while verify is not None or time.monotonic() < until:
            while len(client.in_flight) < _DEPTH:
                blocks = chosen.choice((1, 1, 1, 4, 64))
                # Half of it on few blocks: most that is compared there is being written.
                among = chosen.choice((64 + blocks, SIZE // BLOCK))
                offset = chosen.randrange(among - blocks) * BLOCK
                client.send(Command.WRITE, offset, data=chosen.randbytes(blocks * BLOCK))
            assert client.reap().error == 0
            written += 1
            if verify is None:
                verify = subprocess.Popen(
                    [sys.executable, "-m", "blockpair.cli.main", "verify", "r0", "--wait"],
                    env=cluster.a.environment,
                    stdout=subprocess.DEVNULL,
                )
            elif (code := verify.poll()) is not None:
                assert code == 0, f"run {runs}: {report(cluster.a)}"
                verify, runs = None, runs + 1
        while client.in_flight:
            client.reap()
    print(f"{runs} comparisons of {SIZE} bytes beside {written} writes in {seconds:g} s: nothing found")
    assert runs and written
    for node in cluster.nodes:
        assert report(node)["findings"] == []
    cluster.assert_equal()
