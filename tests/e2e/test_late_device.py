"""A disk that comes after the daemon: its resource comes up by itself, if the disk is the one that it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually


def _failure(node: Node) -> str:
    return str(node.rpc("resource.status", name="r0")["failure"])


def _comes_up(node: Node) -> None:
    def so() -> bool:
        return bool(node.rpc("resource.status", name="r0")["state"] == "running")

    eventually(so, f"r0 is up on {node.name}")
    node.wait("synced")


def _taken_away(node: Node) -> Path:
    return node.disk.rename(node.disk.with_name("away"))


def _comes_back(node: Node, away: Path) -> None:
    away.rename(node.disk)
    _comes_up(node)


def _starts_failed(node: Node) -> int:
    return node.log.read_text().count("resource.start-failed")


def test_a_secondary_whose_disk_comes_late_is_synced_by_itself(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    b.stop()
    away = _taken_away(b)
    b.start()
    assert f"{b.disk} does not exist" in _failure(b)
    assert "started by itself" in b.cli("status").out
    # Whoever wants it up at once is told why it cannot be.
    assert "does not exist" in b.cli("up", "r0").err
    a.write(0, b"late" * 1024)
    told = _starts_failed(b)
    _comes_back(b, away)
    assert b.disk.read_bytes()[:4096] == b"late" * 1024
    assert _starts_failed(b) == told


def test_a_primary_whose_disk_comes_late_goes_on(cluster: Cluster) -> None:
    cluster.synced()
    a = cluster.a
    a.write(0, b"before" * 512)
    a.kill()
    away = _taken_away(a)
    a.start()
    assert "does not exist" in _failure(a)
    _comes_back(a, away)
    a.wait("primary")
    assert a.read(0, 3072) == b"before" * 512


def test_another_disk_in_its_place_is_not_taken_for_it(cluster: Cluster) -> None:
    cluster.synced()
    b = cluster.b
    b.stop()
    away = _taken_away(b)
    b.start()
    blank = b.disk.with_name("blank")
    with blank.open("wb") as file:
        file.truncate(away.stat().st_size)
    blank.rename(b.disk)
    eventually(lambda: "is not what it was" in _failure(b), "it says that the disk is another one")
    assert b.rpc("resource.status", name="r0")["engine"] is None
    b.disk.unlink()
    _comes_back(b, away)


def test_names_that_two_disks_have_exchanged_while_the_daemon_was_away(cluster: Cluster) -> None:
    cluster.synced()
    b = cluster.b
    b.stop()
    away = _taken_away(b)
    others = os.urandom(1 << 20) + bytes(away.stat().st_size - (1 << 20))
    b.disk.write_bytes(others)
    b.start()
    # Its metadata, which are elsewhere, call this UpToDate.
    assert "is not what it was" in _failure(b)
    cluster.a.write(0, b"newer" * 512)
    assert b.disk.read_bytes() == others
    b.disk.unlink()
    _comes_back(b, away)


def test_what_was_taken_down_stays_down_when_its_disk_comes(cluster: Cluster) -> None:
    cluster.synced()
    b = cluster.b
    b.stop()
    away = _taken_away(b)
    b.start()
    assert "does not exist" in _failure(b)
    b.ok("down", "r0")
    away.rename(b.disk)
    assert b.rpc("resource.status", name="r0")["state"] == "down"
    b.ok("up", "r0")
    b.wait("synced")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("losetup") is None, reason="needs root and losetup")
def test_a_loop_device_that_is_set_up_later(cluster: Cluster, base: Path) -> None:
    def losetup(*words: str) -> str:
        done = subprocess.run(["losetup", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no loop device can be had here: {done.stderr.strip()}")
        return done.stdout.strip()

    images = [base / name for name in ("image-a", "image-b")]
    for image in images:
        with image.open("wb") as file:
            file.truncate(16 << 20)
    a, b = cluster.nodes
    device = losetup("--find", "--show", str(images[1]))
    try:
        cluster.start()
        for node, disk in ((a, str(images[0])), (b, device)):
            node.ok("create", "r0", "--device", disk, *cluster.peer_option(node))
        cluster.up()
        a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
        a.ok("promote", "r0")
        b.stop()
        losetup("--detach", device)
        b.start()
        assert "has failed" in b.cli("status").out
        a.write(0, b"loop" * 1024)
        losetup(device, str(images[1]))
        _comes_up(b)
        b.ok("down", "r0")
        assert images[1].read_bytes()[:4096] == b"loop" * 1024
    finally:
        cluster.close()
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
