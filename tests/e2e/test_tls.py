"""Replication of members: encrypted, each sure of the other; what was trusted once is no key for ever."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually


def replicated(cluster: Cluster) -> None:
    """r0 on both members, in sync, a Primary."""
    cluster.form()
    for node in cluster.nodes:
        with node.disk.open("wb") as disk:
            disk.truncate(16 << 20)
    copies = ",".join(f"{node.name}={node.disk}" for node in cluster.nodes)
    cluster.a.ok("create", "r0", "--on", copies)
    cluster.a.ok("sync", "r0", "--from", cluster.a.name, "--wait")
    cluster.a.ok("promote", "r0")


def established(node: Node) -> bool:
    """Whether r0 is replicated, as this node says."""
    return bool(node.status()["engine"]["peers"][0]["replication"] == "Established")


def equal(cluster: Cluster) -> None:
    """End both; their copies must be the same."""
    for node in cluster.nodes:
        node.ok("down", "r0")
    assert cluster.a.disk.read_bytes() == cluster.b.disk.read_bytes()


def test_members_replicate_under_tls_and_under_new_certificates(cluster: Cluster) -> None:
    replicated(cluster)
    for node in cluster.nodes:
        peer = node.status()["engine"]["peers"][0]
        assert peer["tls"] is True
        assert peer["cipher"].startswith("TLS13_")
    cluster.a.write(0, b"before" * 1024)
    cluster.a.ok("cluster", "rotate", "--ca")
    # The connection that is there goes on, and the next one is made with what is trusted now.
    cluster.a.write(1 << 20, b"between" * 1024)
    assert all(established(node) for node in cluster.nodes)
    cluster.a.ok("disconnect", "r0")
    cluster.a.write(2 << 20, b"after" * 1024)
    for node in cluster.nodes:
        node.ok("connect", "r0")
    eventually(lambda: all(established(node) for node in cluster.nodes), "replicated again")
    equal(cluster)
    assert all("PRIVATE KEY" not in node.log.read_text() for node in cluster.nodes)


def knock(port: int, trust: Path) -> bytes:
    """Say something at the replication port as a member that has this trust; what comes back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(trust / "node.pem", trust / "node.key")
    context.set_alpn_protocols(["blockpair/1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b"\0" * 64)
        return secured.recv(4096)


def test_what_was_trusted_once_is_refused_after_the_authority_has_changed(
    cluster: Cluster, tmp_path: Path
) -> None:
    replicated(cluster)
    found = next(cluster.b.dir.rglob("node.key")).parent
    stolen = shutil.copytree(found, tmp_path / "stolen", symlinks=False)
    # A member is let in as far as its first message, which is none.
    assert knock(cluster.a.port, stolen) == b""
    eventually(lambda: "not a blockpair frame" in cluster.a.log.read_text(), "that is in the log")
    cluster.a.ok("cluster", "rotate", "--ca")
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        knock(cluster.a.port, stolen)
    eventually(
        lambda: "not from this cluster's CA; it is no member, or no more" in cluster.a.log.read_text(),
        "the log says why",
    )
    equal(cluster)


def test_a_handshake_without_end_is_refused_and_burns_no_time(cluster: Cluster) -> None:
    """A ClientHello that declares more than any honest one has, and never comes to its end."""
    replicated(cluster)
    a = cluster.a
    records = b"\x01" + (40000).to_bytes(3, "big") + bytes(40000 - 14)
    parts = [records[start : start + 16000] for start in range(0, len(records), 16000)]
    hello = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
    connection = socket.create_connection(("127.0.0.1", a.port), timeout=10)
    with connection as stranger, contextlib.suppress(OSError):
        stranger.sendall(hello)
        while stranger.recv(4096):
            pass
    eventually(lambda: "longer than any honest one" in a.log.read_text(), "the log says why")
