"""``blockpair bundle`` on bundles that are there: listed, checked, served, written back, deleted."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bundle_file import BLOCK, write_bundle
from tests.e2e.cluster import DEADLINE, Cluster, Node
from tests.e2e.nbd_client import NbdClient

SIZE = 16 << 20
NAME = "20231114T221320Z-00000000000000aa.bpb"
# Two runs, one longer than a piece of NBD reads.
RUNS = [(2, os.urandom(3 * BLOCK)), (100, os.urandom(200 * BLOCK))]


def put(node: Node, name: str = NAME) -> Path:
    """A bundle of r0 where the node keeps them."""
    path = node.dir / "state/bundles/r0" / name
    write_bundle(path, SIZE, RUNS)
    return path


@contextmanager
def exporting(node: Node, which: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """``bundle export``, serving, and what it told."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blockpair.cli.main", "bundle", "export", which, "--json"],
        env=node.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        told = process.stdout.readline()
        assert told, process.stderr.read()
        yield process, json.loads(told)
    finally:
        process.kill()
        process.communicate()


def test_list_and_show_need_no_daemon(cluster: Cluster) -> None:
    node = cluster.a
    assert "no bundles" in node.ok("bundle", "list").out
    path = put(node)
    broken = put(node, "20240101T000000Z-00000000000000aa.bpb")
    data = bytearray(broken.read_bytes())
    data[-60] ^= 1
    broken.write_bytes(data)
    good, bad = node.ok("bundle", "list", "--json").json()
    assert (good["name"], good["resource"], good["bundle"]["facts"]["blocks"]) == (NAME, "r0", 203)
    assert bad["bundle"] is None and "checksum" in bad["error"]
    assert "unusable" in node.ok("bundle", "list", "r0").out
    shown = node.ok("bundle", "show", NAME).out
    assert "match their checksums" in shown and "203 blocks of 4 KiB" in shown
    assert "damaged" in node.refused(1, "bundle", "show", "r0"), "the newest one"
    # One flipped bit in a block, which only reading all of it finds.
    data = bytearray(path.read_bytes())
    data[2 * BLOCK] ^= 1
    path.write_bytes(data)
    assert len(node.ok("bundle", "list", "--json").json()) == 2
    assert "blocks 2 to 4 do not match" in node.refused(1, "bundle", "show", str(path))


@pytest.mark.parametrize("which", ["r1", "nothing.bpb", "./nothing.bpb", "..", "/etc/passwd"])
def test_what_is_no_bundle_is_refused(cluster: Cluster, which: str) -> None:
    cluster.a.start()
    put(cluster.a)
    cluster.a.refused(1, "bundle", "show", which)
    cluster.a.refused(1, "bundle", "delete", which, "--yes")


def test_an_export_serves_until_it_is_interrupted(cluster: Cluster) -> None:
    cluster.synced()
    cluster.a.write(50 * BLOCK, b"now." * 1024)
    put(cluster.a)
    with exporting(cluster.a, "r0") as (process, told):
        assert told["changed_blocks"] is None, "it was not saved by this engine"
        socket = Path(told["socket"])
        with NbdClient(socket) as client:
            assert client.size == SIZE
            for first, data in RUNS:
                assert client.read(first * BLOCK, len(data)) == data
            # What is not known to be the victim's is an error, never something else.
            for offset in (0, 50 * BLOCK, 5 * BLOCK - 1):
                with pytest.raises(OSError) as refused:
                    client.read(offset, BLOCK)
                assert refused.value.errno == errno.EIO
            with pytest.raises(OSError) as refused:
                client.write(2 * BLOCK, b"x" * BLOCK)
            assert refused.value.errno == errno.EPERM
            assert "is being exported" in cluster.a.refused(3, "bundle", "delete", "r0", "--yes")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=DEADLINE) == 0
            with pytest.raises(OSError):
                client.read(2 * BLOCK, BLOCK)
                # It may have been answered before the end was there.
                client.socket.recv(1)
                raise ConnectionResetError
        image = cluster.base / "image"
        assert "not known" in cluster.a.refused(3, "bundle", "restore", "r0", "--to", str(image))
        assert not image.exists()
    # Down: the export ends with the resource, and there is none without it.
    with exporting(cluster.a, "r0") as (process, told):
        cluster.a.ok("down", "r0")
        assert process.wait(timeout=DEADLINE) == 1
        assert not Path(told["socket"]).exists()
    cluster.a.refused(1, "bundle", "export", "r0")
    cluster.a.ok("bundle", "delete", "r0", "--yes")


def test_restore_writes_the_blocks_back_on_both_nodes(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(0, b"x" * (400 * BLOCK))
    path = put(a)
    copied = b.dir / "copy.bpb"
    shutil.copy(path, copied)
    assert "not Primary" in b.refused(3, "bundle", "restore", str(copied), "--yes")
    assert f"{203 * BLOCK} bytes of r0 would be overwritten" in a.refused(2, "bundle", "restore", "r0")
    with NbdClient(a.nbd):
        assert "in use" in a.refused(3, "bundle", "restore", "r0", "--yes")
    assert a.read(0, 400 * BLOCK) == b"x" * (400 * BLOCK), "what was refused wrote something"
    # A damaged bundle is refused whole.
    good = path.read_bytes()
    path.write_bytes(good[:150_000] + bytes([good[150_000] ^ 1]) + good[150_001:])
    a.refused(1, "bundle", "restore", "r0", "--yes")
    assert a.read(0, 400 * BLOCK) == b"x" * (400 * BLOCK)
    path.write_bytes(good)
    assert a.ok("bundle", "restore", "r0", "--yes", "--json").json()["bytes"] == 203 * BLOCK
    wanted = bytearray(b"x" * (400 * BLOCK))
    for first, data in RUNS:
        wanted[first * BLOCK : first * BLOCK + len(data)] = data
    assert cluster.assert_equal()[: len(wanted)] == bytes(wanted)


def test_delete_asks_and_takes_nothing_but_bundles(cluster: Cluster) -> None:
    node = cluster.a
    node.start()
    path = put(node)
    assert "would be deleted" in node.refused(2, "bundle", "delete", NAME)
    other = cluster.base / "mine.bpb"
    shutil.copy(path, other)
    node.refused(1, "bundle", "delete", str(other), "--yes")
    assert path.exists() and other.exists()
    assert str(path) in node.ok("bundle", "delete", "r0", "--yes").out
    assert not path.exists()


def test_bundles_outlive_their_resource(cluster: Cluster) -> None:
    cluster.start()
    cluster.create()
    path = put(cluster.a)
    assert "keeps its bundles" in cluster.a.ok("delete", "r0", "--yes").out
    assert path.exists()
    assert NAME in cluster.a.ok("bundle", "list", "r0").out
    cluster.a.refused(1, "bundle", "list", "r9")
