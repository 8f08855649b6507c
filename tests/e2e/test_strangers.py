"""Peers, metadata and devices that do not belong: refused by name, with what to do; nothing is changed."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import xxhash

from tests.e2e.cluster import Cluster, Node, eventually

PAGE = 4096
HEADER = struct.Struct("<4sBBHIIQQQQQ")


def codes(node: Node) -> set[str]:
    """What a node advises on r0."""
    return {entry["code"] for entry in node.status()["advice"]}


def alone(node: Node, cluster: Cluster) -> None:
    """Give a node's r0 data of its own, without its peer."""
    with node.disk.open("wb") as disk:
        disk.truncate(16 << 20)
    node.start()
    node.ok("create", "r0", "--device", str(node.disk), *cluster.peer_option(node))
    node.ok("up", "r0")
    node.ok("disconnect", "r0")
    node.ok("promote", "r0", "--force", "--yes")
    node.write(0, node.name.encode() * 4096)


def frame(kind: int, body: bytes) -> bytes:
    """A frame of the replication protocol."""
    fields = (b"BPRF", kind, 0, 0, len(body), 0, 0, 0, 0, 0, xxhash.xxh3_64_intdigest(body))
    header = HEADER.pack(*fields)
    return header + struct.pack("<Q", xxhash.xxh3_64_intdigest(header)) + body


def read_frame(stream: BinaryIO) -> tuple[int, int, bytes]:
    """Kind, status and body of the next frame."""
    _, kind, _, status, length, *_ = HEADER.unpack(stream.read(64)[:56])
    return kind, status, stream.read(length)


def test_a_peer_of_another_resource_of_the_same_name(cluster: Cluster) -> None:
    for node in cluster.nodes:
        alone(node, cluster)
        node.ok("demote", "r0")
    before = [node.disk.read_bytes() for node in cluster.nodes]
    for node in cluster.nodes:
        node.ok("connect", "r0")
    eventually(lambda: all("refused-otherresource" in codes(node) for node in cluster.nodes), "both are told")
    assert all(node.cli("status").code == 4 for node in cluster.nodes)
    assert [node.disk.read_bytes() for node in cluster.nodes] == before


def test_a_peer_of_a_newer_protocol(cluster: Cluster) -> None:
    """A Hello of version 9 alone, laid out as every version must: answered with the reason, in words."""
    node = cluster.a
    alone(node, cluster)
    node.ok("connect", "r0")
    names = b"r0" + b"b" + b"a"
    fixed = struct.pack("<HHBBHQQQ16sI4BI", 9, 9, 3, 2, 0, 0, 16 << 20, 1, bytes(16), 4096, 2, 1, 1, 0, 0)
    body = fixed + names
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as peer:
        peer.sendall(frame(1, body))
        with peer.makefile("rb") as stream:
            kind, status, text = read_frame(stream)
            while kind == 1:
                kind, status, text = read_frame(stream)
    assert (kind, status) == (2, 4), (kind, status, text)
    assert b"version" in text
    eventually(lambda: "refused-version" in codes(node), "a says so")


@pytest.mark.parametrize("what", ["version", "check"])
def test_metadata_of_a_newer_release_and_damaged(cluster: Cluster, what: str) -> None:
    node = cluster.a
    alone(node, cluster)
    node.ok("demote", "r0")
    node.ok("down", "r0")
    path = next((node.dir / "state").rglob("r0.meta"))
    content = bytearray(path.read_bytes())
    for start in (len(content) - 2 * PAGE, len(content) - PAGE):
        page = content[start : start + PAGE]
        page[8:10] = struct.pack("<H", 7)
        page[16:32] = bytes(16)
        if what == "version":
            # The check is XXH3-128 with the low half first.
            digest = xxhash.xxh3_128_intdigest(bytes(page))
            page[16:32] = digest.to_bytes(16, "little")
        content[start : start + PAGE] = page
    path.write_bytes(content)
    disk = node.disk.read_bytes()
    message = node.refused(1, "up", "r0")
    assert ("7" in message and "newer" in message) if what == "version" else "checksum" in message
    assert path.read_bytes() == bytes(content)
    assert node.disk.read_bytes() == disk
    assert node.cli("metadata", "show", "r0").code in (0, 1)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[str]:
    """A loop device of our own with a mounted file system."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")
    image, folder = tmp_path / "image", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    folder.mkdir()

    def run(*argv: str) -> str:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    with contextlib.ExitStack() as undo:
        device = run("losetup", "--find", "--show", str(image))
        undo.callback(run, "losetup", "--detach", device)
        run("mkfs.ext4", "-q", device)
        run("mount", device, str(folder))
        undo.callback(run, "umount", str(folder))
        yield device


def test_a_mounted_device_is_never_taken(cluster: Cluster, mounted: str) -> None:
    node = cluster.a
    node.start()
    for force in ((), ("--force",)):
        message = node.refused(3, "create", "r0", "--device", mounted, *cluster.peer_option(node), *force)
        assert "mounted" in message
    assert node.cli("status", "--json").json()["resources"] == []


def test_a_split_brain_is_seen_by_both_and_ended_by_a_person(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.write(0, b"common" * 512)
    for node in cluster.nodes:
        node.ok("disconnect", "r0")
    with a.silent():
        message = b.refused(3, "promote", "r0")
        assert "--force" in message
        b.ok("promote", "r0", "--force", "--yes")
    a.write(1 << 20, b"only-a" * 512)
    b.write(2 << 20, b"only-b" * 512)
    before = [node.disk.read_bytes() for node in cluster.nodes]
    for node in cluster.nodes:
        node.ok("connect", "r0")
    eventually(
        lambda: all("split-brain" in codes(node) for node in cluster.nodes), "both see the split brain"
    )
    assert [node.disk.read_bytes() for node in cluster.nodes] == before
    assert all(node.status()["engine"]["role"] == "Primary" for node in cluster.nodes)
    # b's changes go: its copy is made anew.
    b.ok("demote", "r0")
    b.ok("down", "r0")
    b.ok("delete", "r0", "--yes")
    b.ok("create", "r0", "--device", str(b.disk), *cluster.peer_option(b), "--force")
    b.ok("up", "r0")
    a.ok("connect", "r0")
    b.wait("synced", timeout="60s")
    assert a.read(1 << 20, 4096).startswith(b"only-a")
    a.ok("demote", "r0")
    assert a.disk.read_bytes() == b.disk.read_bytes()
    assert b.disk.read_bytes()[2 << 20 : (2 << 20) + 6] != b"only-b"


def test_who_is_refused_before_it_has_a_name_is_in_the_log(cluster: Cluster) -> None:
    node = cluster.a
    alone(node, cluster)
    hello = b"\x16\x03\x01\x00\x05hello"
    for said in (b"GET / HTTP/1.1\r\n\r\n" * 8, hello):
        with socket.create_connection(("127.0.0.1", node.port), timeout=10) as scanner:
            scanner.sendall(said)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while more := scanner.recv(4096):
                    answer += more
        # TLS is answered with the alert access_denied, in the clear, and everything else with nothing.
        assert answer == (b"\x15\x03\x03\x00\x02\x02\x31" if said == hello else b"")
    eventually(lambda: "this node has no certificates" in node.log.read_text(), "the log tells of both")
    assert "not a blockpair frame" in node.log.read_text()
