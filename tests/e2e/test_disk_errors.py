"""A disk that is full: the resource says so, its peer's copy goes on, the daemon stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually


@pytest.fixture
def small(cluster: Cluster) -> Iterator[Path]:
    """A file system of 6 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = cluster.base / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        cluster.close()
        subprocess.run(["umount", str(place)], check=True)


def codes(node: Node) -> list[str]:
    """The advice a node gives."""
    return [entry["code"] for entry in node.status()["advice"]]


def test_a_full_disk_under_the_secondary(cluster: Cluster, small: Path) -> None:
    a, b = cluster.nodes
    cluster.start()
    for node, place in ((a, a.dir), (b, small)):
        with (place / "disk").open("wb") as disk:
            disk.truncate(16 << 20)
        node.ok("create", "r0", "--device", str(place / "disk"), *cluster.peer_option(node))
    cluster.up()
    # Zeroes take no room: the first sync fits.
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    a.ok("promote", "r0")
    for megabyte in range(9):
        a.write(megabyte << 20, b"full" * (1 << 18))
    eventually(lambda: bool({"diskless", "disk-error"} & set(codes(b))), "b says that its disk failed")
    eventually(lambda: a.cli("status").code == 4, "a says that it is alone")
    assert a.read(8 << 20, 4096) == b"full" * 1024
    assert a.status()["engine"]["disk"] == "UpToDate"
    assert "ENOSPC" in str(b.status()["engine"]["disk_error"]) or "space" in str(
        b.status()["engine"]["disk_error"]
    )
