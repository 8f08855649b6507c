"""A cluster of real daemons: from nothing to members, who is refused and learns why, and kills in between."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockpair.trust.tokens import Token, parse_token
from tests.e2e.cluster import Cluster, Node, eventually, free_ports

ALPN = "blockpair-control/1"


def report(node: Node) -> Any:
    """What a node says of its cluster."""
    return node.rpc("cluster.status")


def said(node: Node, text: str) -> bool:
    """Whether the node's log has it."""
    return text in node.log.read_text()


def token(node: Node, **params: Any) -> str:
    """A fresh token of a node."""
    return str(node.rpc("cluster.token", **params)["text"])


def door(node: Node) -> str:
    """A node's control port, as `cluster join` wants it."""
    return f"127.0.0.1:{node.control}"


def trust_of(node: Node) -> dict[str, bytes]:
    """Everything that a node's trust and membership consist of, by path."""
    places = [node.dir / "state/trust", node.dir / "state/cluster", node.dir / "config"]
    return {
        str(path): path.read_bytes()
        for place in places
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name != "tokens.json"
    }


@pytest.fixture
def third(cluster: Cluster) -> Iterator[Node]:
    """A node c, not started."""
    made = Node("c", cluster.base, *free_ports(2))
    try:
        yield made
    finally:
        made.kill()


def test_from_nothing_to_a_cluster(cluster: Cluster) -> None:
    a, b = cluster.nodes
    cluster.start()
    assert "is in no cluster" in a.ok("cluster", "status").out
    assert a.refused(1, "cluster", "token")
    began = time.monotonic()
    a.ok("cluster", "init", "east")
    printed = a.ok("cluster", "token", "--ttl", "5m").out
    command = next(line.split() for line in printed.splitlines() if "cluster join" in line)
    assert command[:3] == ["blockpair", "cluster", "join"]
    b.ok(*command[1:])
    for node in cluster.nodes:
        node.ok("cluster", "status")
    assert time.monotonic() - began < 60
    # Each sees the other, and both the same.
    reports = [report(node) for node in cluster.nodes]
    assert [member["name"] for member in reports[0]["members"]] == ["a", "b"]
    assert all(member["reachable"] for found in reports for member in found["members"])
    for key in ("cluster_id", "authority_sha256", "configuration"):
        assert reports[0][key] == reports[1][key]
    texts = [(node.dir / "config/cluster.toml").read_text() for node in cluster.nodes]
    assert texts[0] == texts[1]
    # After a restart it is as before.
    for node in cluster.nodes:
        assert node.stop() == 0
    cluster.start()
    for node in cluster.nodes:
        node.ok("cluster", "status")
    b.kill()
    done = a.cli("cluster", "status")
    assert done.code == 4
    assert "b cannot be reached" in done.out


def test_a_token_from_the_standard_input(cluster: Cluster) -> None:
    import subprocess
    import sys

    cluster.start()
    cluster.a.ok("cluster", "init", "east")
    done = subprocess.run(
        [sys.executable, "-m", "blockpair.cli.main", "cluster", "join", door(cluster.a), "-", "--json"],
        env=cluster.b.environment,
        input=token(cluster.a) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"]["state"] == "member"


def test_tokens_that_let_nobody_in(cluster: Cluster, third: Node) -> None:
    a, b = cluster.nodes
    cluster.start()
    third.start()
    a.ok("cluster", "init", "east")
    before = trust_of(a)
    # Expired.
    expired = token(a, ttl_seconds=0.01)
    message = b.refused(1, "cluster", "join", door(a), expired)
    assert "expired" in message
    assert said(a, "the token expired")
    # Of another cluster, by its id and by its authority.
    third.ok("cluster", "init", "west")
    message = b.refused(1, "cluster", "join", door(a), token(third))
    assert "no such token" in message
    assert said(a, "no such token")
    good = parse_token(token(a))
    forged = Token(good.id, good.secret, bytes(32))
    message = b.refused(3, "cluster", "join", door(a), forged.text())
    assert "fingerprint" in message and "nothing was sent" in message
    assert said(a, "the joining node gave up")
    # The right id and authority, another secret.
    message = b.refused(3, "cluster", "join", door(a), Token(good.id, bytes(32), good.authority).text())
    assert "cannot prove" in message
    # Damaged.
    assert "no join token" in b.refused(2, "cluster", "join", door(a), good.text()[:-5])
    # Nothing of that changed anything.
    assert trust_of(a) == before
    assert report(b)["state"] == "none"
    assert not (b.dir / "config/cluster.toml").exists()
    assert not (b.dir / "state/trust/current").is_symlink()
    # The right one, once.
    b.ok("cluster", "join", door(a), good.text())
    third.ok("cluster", "remove", "c", "--yes")
    before = trust_of(a)
    message = third.refused(1, "cluster", "join", door(a), good.text())
    assert "used already, by b" in message
    assert said(a, "used already, by b")
    assert trust_of(a) == before
    assert report(third)["state"] == "none"


def test_a_port_that_is_no_control_port(cluster: Cluster) -> None:
    a, b = cluster.nodes
    cluster.start()
    a.ok("cluster", "init", "east")
    text = token(a)
    for port in (a.port, free_ports(1)[0]):
        message = b.refused(1, "cluster", "join", f"127.0.0.1:{port}", text)
        assert "cannot be asked" in message
    assert report(b)["state"] == "none"
    b.ok("cluster", "join", door(a), text)


def test_a_removed_node_is_refused_and_told_why(cluster: Cluster, third: Node) -> None:
    cluster.form()
    third.start()
    cluster.admit(third)
    a, b = cluster.nodes
    eventually(lambda: report(b)["healthy"] and report(a)["healthy"], "all know all")
    b.stop()
    done = a.ok("cluster", "remove", "b", "--yes").out
    assert "b was not told" in done
    b.start()
    message = next(warning for warning in report(b)["warnings"] if "a cannot" in warning)
    assert "removed from the cluster" in message
    eventually(lambda: said(a, "does not accept this node's certificate"), "a says so")
    assert [member["name"] for member in report(a)["members"]] == ["a", "c"]
    eventually(lambda: report(third)["healthy"], "c has the new authority")
    assert report(third)["authority_sha256"] == report(a)["authority_sha256"]
    # With the old certificate and the new authority, as one who looked it up would try.
    new_authority = next((a.dir / "state/trust/current").glob("ca.pem")).read_text()
    context = member_context(b, new_authority)
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        ask(a, context, "peer.cluster.hello")
    assert "UNKNOWN_CA" in str(caught.value)
    eventually(lambda: said(a, "not one of this cluster"), "a says so")
    b.ok("cluster", "remove", "b", "--yes")
    cluster.admit(b)
    eventually(lambda: report(b)["healthy"], "b is a member again")


def test_what_is_not_removed(cluster: Cluster) -> None:
    cluster.form()
    assert "no node 'x'" in cluster.a.refused(1, "cluster", "remove", "x", "--yes")
    before = report(cluster.a)["authority_sha256"]
    message = cluster.a.refused(2, "cluster", "remove", "b")
    assert "must be confirmed" in message and "blockpair cluster remove b --yes" in message
    assert report(cluster.a)["authority_sha256"] == before


def member_context(node: Node, authority: str | None = None) -> ssl.SSLContext:
    """TLS as that node's daemon speaks it; with another authority to believe in."""
    current = node.dir / "state/trust/current"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=authority or (current / "ca.pem").read_text())
    context.load_cert_chain(current / "node.pem", current / "node.key")
    return context


def ask(node: Node, context: ssl.SSLContext, method: str, name: str | None = None, **params: Any) -> Any:
    """Call a method of the control port, as whoever the context is."""
    if "resource_name" in params:
        params["name"] = params.pop("resource_name")
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with (
        socket.create_connection(("127.0.0.1", node.control), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name or node.name) as connection,
    ):
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            return json.loads(stream.readline() or b"{}")


def test_a_node_is_who_its_certificate_says(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    # b's certificate at a's address.
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'b'"):
        ask(a, member_context(b), "peer.cluster.hello", name="b")
    # What a calls at b's address is b, or nobody: a's daemon finds itself there.
    b.stop()
    text = (a.dir / "config/blockpair.toml").read_text()
    a.stop()
    (a.dir / "config/blockpair.toml").write_text(text.replace(str(a.control), str(b.control)))
    a.start()
    why = next(member["why"] for member in report(a)["members"] if member["name"] == "b")
    assert "certificate of another node, not of b" in why
    # A member cannot ask in another one's name.
    a.stop()
    (a.dir / "config/blockpair.toml").write_text(text)
    cluster.start()
    answer = ask(a, member_context(b), "peer.trust.commit", id="0" * 16)
    assert "no such change" in answer["error"]["message"]


def test_a_member_names_no_file_outside(cluster: Cluster) -> None:
    """A member may make and delete copies as the configuration says, and nothing else of the other's."""
    cluster.form()
    a, b = cluster.nodes
    head = a.rpc("config.show")["id"]
    token(a)
    # That it was asked is logged, and an event.
    told = {a.log, *(a.dir / "state/events").iterdir()}
    before = {path: path.read_bytes() for path in a.dir.rglob("*") if path.is_file() and path not in told}
    context = member_context(b)
    for name in ("../../trust/tokens", "../../../config/blockpair", "/etc/passwd", "..", ""):
        for method, params in (
            ("peer.create.finish", {"version": head, "up": True}),
            ("peer.create.undo", {"version": head}),
            ("peer.create.place", {}),
            ("peer.delete.forget", {"before": head}),
        ):
            answer = ask(a, context, method, name="a", **{"resource_name": name, **params})
            assert "error" in answer, (method, name, answer)
    # A version that was never made says nothing of what may be deleted.
    victim = a.dir / "victim"
    victim.write_text("precious")
    before[victim] = victim.read_bytes()
    text = (a.dir / "config/cluster.toml").read_text() + (
        f'[resource.r9.on.a]\ndevice = "/dev/null"\nmetadata = "{victim}"\n'
        '[resource.r9.on.b]\ndevice = "/dev/null"\nmetadata = "internal"\n'
    )
    answer = ask(a, context, "peer.delete.forget", name="a", resource_name="r9", before=text)
    assert answer["error"]["data"]["kind"] == "not_found"
    assert all(path.read_bytes() == content for path, content in before.items())


def test_strangers_on_the_control_port(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    before = trust_of(a)
    # Plain TCP is told what this is.
    with socket.create_connection(("127.0.0.1", a.control), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"TLS 1.3" in plain.recv(4096)
    eventually(lambda: said(a, "does not speak TLS"), "a says so")
    # TLS 1.2.
    context = member_context(b)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        ask(a, context, "peer.cluster.hello")
    eventually(lambda: said(a, "TLS older than 1.3"), "a says so")
    # No certificate: nothing but join.
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    anybody.set_alpn_protocols([ALPN])
    for method in ("peer.cluster.hello", "peer.trust.prepare", "peer.config.fetch", "cluster.status", "x"):
        answer = ask(a, anybody, method)
        assert "no method" in answer["error"]["message"]
        assert "result" not in answer
    # Port scanners: connect and go, connect and send noise.
    for noise in (b"", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100, random.Random(1).randbytes(4096)):
        scanner = socket.create_connection(("127.0.0.1", a.control), timeout=10)
        with scanner, contextlib.suppress(OSError):
            scanner.sendall(noise)
    assert report(b)["healthy"]
    assert trust_of(a) == before


def test_a_thousand_connections_at_once_and_half_open_handshakes(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    held = []
    try:
        for number in range(1000):
            connection = socket.create_connection(("127.0.0.1", a.control), timeout=10)
            held.append(connection)
            if number % 2:
                with contextlib.suppress(OSError):
                    connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        began = time.monotonic()
        found = report(b)
        assert found["healthy"], found["warnings"]
        assert time.monotonic() - began < 5
        # And a's own commands are not held up.
        assert report(a)["healthy"]
    finally:
        for connection in held:
            connection.close()
    told = a.log.read_text().count("peer.refused")
    assert told < 200, f"{told} lines for a thousand connections"
    assert report(b)["healthy"]


def test_nobody_else_can_read_the_keys_and_nothing_says_them(cluster: Cluster, third: Node) -> None:
    cluster.form()
    a, b = cluster.nodes
    third.start()
    texts = [token(a), token(a)]
    third.ok("cluster", "join", door(a), texts[0])
    third.cli("cluster", "join", door(a), texts[1])
    a.ok("cluster", "rotate")
    a.ok("cluster", "rotate", "--ca")
    secrets = list(texts)
    for text in texts:
        found = parse_token(text)
        secrets += [found.secret.hex(), text.removeprefix("bpj1-")]
    for node in (a, b, third):
        for path in (node.dir / "state/trust").rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path
            if path.suffix in (".key", ".pem"):
                secrets += [line for line in path.read_text().splitlines() if len(line) > 20][1:-1]
    for node in (a, b, third):
        log = node.log.read_text()
        assert "PRIVATE KEY" not in log
        assert not [secret for secret in secrets if secret in log]
        kept = "".join(path.read_text() for path in (node.dir / "state/trust").rglob("tokens.json"))
        assert not [text for text in secrets[: 3 * len(texts)] if text in kept]
        assert node.process is not None
        command = Path(f"/proc/{node.process.pid}/cmdline").read_bytes().decode()
        assert not [secret for secret in secrets if secret in command]
        # A key that others can read is not used.
    key = next((b.dir / "state/trust/current").glob("node.key"))
    b.stop()
    key.chmod(0o644)
    b.start()
    done = b.cli("cluster", "status")
    assert done.code == 4
    assert "node.key" in done.out and "chmod 0600" in done.out


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_daemon_killed_during_a_join(cluster: Cluster, victim: str) -> None:
    """At moments spread over the whole of it; afterwards each node is a member, or is not and can join."""
    cluster.start()
    a, b = cluster.nodes
    a.ok("cluster", "init", "east")
    killed = a if victim == "a" else b
    chance = random.Random(3)
    for _ in range(5):
        params = {"server": door(a), "token": token(a), "addresses": []}
        calling = threading.Thread(target=lambda given=params: _try(b, "cluster.join", **given))
        calling.start()
        time.sleep(chance.uniform(0, 0.25))
        killed.kill()
        calling.join()
        killed.start()
        # By itself: what had its certificate completes its join.
        eventually(lambda: report(b)["state"] in ("none", "member"), "b is in or out")
        if report(b)["state"] == "member":
            eventually(lambda: report(a)["healthy"] and report(b)["healthy"], "both agree")
            a.ok("cluster", "remove", "b", "--yes")
            eventually(lambda: report(b)["state"] == "none", "b is out")
        assert [member["name"] for member in report(a)["members"]] == ["a"]
    cluster.admit(b)
    eventually(lambda: report(a)["healthy"] and report(b)["healthy"], "both agree")


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_daemon_killed_during_a_change_of_the_authority(cluster: Cluster, victim: str) -> None:
    cluster.form()
    a, b = cluster.nodes
    killed = a if victim == "a" else b
    chance = random.Random(5)
    for _ in range(5):
        calling = threading.Thread(target=lambda: _try(a, "cluster.rotate", ca=True))
        calling.start()
        time.sleep(chance.uniform(0, 0.2))
        killed.kill()
        calling.join()
        killed.start()
        eventually(
            lambda: (
                report(a)["healthy"]
                and report(b)["healthy"]
                and report(a)["authority_sha256"] == report(b)["authority_sha256"]
            ),
            "both have the same authority",
        )
        for node in cluster.nodes:
            generations = list((node.dir / "state/trust/generations").iterdir())
            assert len(generations) == 1, generations
    a.ok("cluster", "rotate", "--ca")
    assert report(b)["healthy"]


def _try(node: Node, method: str, **params: Any) -> None:
    from blockpair.errors import BlockpairError

    with contextlib.suppress(BlockpairError):
        node.rpc(method, **params)
