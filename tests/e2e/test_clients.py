"""The clients that people use, against a real Primary; and those that nobody should use."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.nbd_client import Command, Flag, NbdClient, greeted

SIZE = 32 << 20
_IHAVEOPT = 0x49484156454F5054


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A mirrored device, Primary on a."""
    with tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as base:
        made = Cluster(Path(base))
        try:
            made.start()
            made.create(SIZE)
            made.up()
            made.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
            made.b.wait("synced")
            made.a.ok("promote", "r0")
            yield made
        finally:
            made.close()


def uri(node: Node) -> str:
    """The export, as clients name it."""
    return f"nbd+unix:///r0?socket={node.nbd}"


def run(*command: str | Path) -> str:
    """A program that must succeed; what it printed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def noise(cluster: Cluster, seed: int) -> Path:
    """A file as large as the device."""
    path = cluster.base / "noise"
    path.write_bytes(random.Random(seed).randbytes(SIZE))
    return path


def test_nbdinfo(cluster: Cluster) -> None:
    told = run("nbdinfo", uri(cluster.a))
    assert f"export-size: {SIZE}" in told and "can_fua: true" in told and "can_trim: true" in told
    assert run("nbdinfo", "--size", uri(cluster.a)).strip() == str(SIZE)
    assert "r0" in run("nbdinfo", "--list", f"nbd+unix:///?socket={cluster.a.nbd}")


def test_nbdcopy_both_ways(cluster: Cluster) -> None:
    source, back = noise(cluster, 1), cluster.base / "back"
    run("nbdcopy", "--flush", source, uri(cluster.a))
    assert cluster.assert_equal() == source.read_bytes()
    run("nbdcopy", uri(cluster.a), back)
    assert back.read_bytes() == source.read_bytes()


def test_nbdsh(cluster: Cluster) -> None:
    cluster.a.write(8192, b"by nbdsh" * 512)
    assert cluster.a.read(8192, 4096) == b"by nbdsh" * 512
    assert cluster.assert_equal()[8192:12288] == b"by nbdsh" * 512


def test_qemu_img(cluster: Cluster) -> None:
    source = noise(cluster, 2)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri(cluster.a))
    assert cluster.assert_equal() == source.read_bytes()
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri(cluster.a))
    assert "32 MiB" in run("qemu-img", "info", uri(cluster.a))


def test_qemu_io(cluster: Cluster) -> None:
    source = noise(cluster, 3)
    run("nbdcopy", "--flush", source, uri(cluster.a))
    steps = (
        *("write -P 0x5a 1M 64k", "write -f -P 0x5b 2M 12k", "write -z 3M 128k", "write -z -u 4M 128k"),
        *("discard 5M 1M", "flush", "read -P 0x5a 1M 64k", "read -P 0x5b 2M 12k", "read -P 0 3M 128k"),
        *("read -P 0 4M 128k", "aio_write -P 0x5c 8M 1M", "aio_write -P 0x5d 9M 1M", "aio_flush"),
    )
    told = run("qemu-io", "-f", "raw", *(word for step in steps for word in ("-c", step)), uri(cluster.a))
    assert "verification failed" not in told, told
    seen, expected = cluster.assert_equal(), bytearray(source.read_bytes())
    for start, length, value in (
        *((1 << 20, 65536, 0x5A), (2 << 20, 12288, 0x5B), (3 << 20, 131072, 0), (4 << 20, 131072, 0)),
        *((5 << 20, 1 << 20, 0), (8 << 20, 1 << 20, 0x5C), (9 << 20, 1 << 20, 0x5D)),
    ):
        expected[start : start + length] = bytes([value]) * length
    assert seen == bytes(expected)


def test_fio_verifies_what_it_wrote(cluster: Cluster) -> None:
    run(
        *("fio", "--name=mix", "--ioengine=nbd", f"--uri={uri(cluster.a)}", "--rw=randwrite", "--bs=4k"),
        *(
            f"--size={SIZE}",
            "--iodepth=32",
            "--verify=xxhash",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fsync=64",
        ),
    )
    cluster.assert_equal()


def test_several_clients_at_once(cluster: Cluster) -> None:
    share = SIZE // 4
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(NbdClient(cluster.a.nbd)) for _ in range(4)]
        for step in range(200):
            for number, client in enumerate(clients):
                if len(client.in_flight) >= 16:
                    assert client.reap().error == 0
                offset = number * share + step * 8192
                client.send(Command.WRITE, offset, data=bytes([number + 1, step]) * 4096)
        for client in clients:
            while client.in_flight:
                assert client.reap().error == 0
        # What one has written and flushed, another reads.
        clients[0].flush()
        for number in range(4):
            assert clients[3 - number].read(number * share, 8192) == bytes([number + 1, 0]) * 4096
    seen = cluster.assert_equal()
    for number in range(4):
        for step in range(200):
            offset = number * share + step * 8192
            assert seen[offset : offset + 8192] == bytes([number + 1, step]) * 4096


def test_a_client_that_is_killed_in_the_middle_of_its_writes(cluster: Cluster) -> None:
    source = noise(cluster, 4)
    if shutil.which("nbdcopy") is None:
        pytest.skip("nbdcopy is not installed")
    with NbdClient(cluster.a.nbd) as other:
        before = cluster.a.status()["engine"]["io"]["writes"]
        copying = subprocess.Popen(["nbdcopy", "--requests=4", "--request-size=4096", source, uri(cluster.a)])
        try:
            eventually(
                lambda: cluster.a.rpc("resource.status", name="r0")["engine"]["io"]["writes"] > before + 50,
                "nbdcopy writes",
            )
        finally:
            copying.send_signal(signal.SIGKILL)
            copying.wait()
        # And one that leaves half a write behind.
        half = NbdClient(cluster.a.nbd)
        half.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 1 << 20) + b"x" * 5000)
        half.socket.close()
        eventually(
            lambda: len(cluster.a.rpc("resource.status", name="r0")["engine"]["clients"]) == 1,
            "only the other client is left",
        )
        other.write(4096, b"still here" * 1024 + bytes(2048), Flag.FUA)
        assert other.read(4096, 4096).startswith(b"still here")
    seen = cluster.assert_equal()
    # Half a write is no write.
    assert seen[:4096] != b"x" * 4096


# ---- bytes that are none of ours


def losses(node: Node) -> int:
    """How often the running resource has lost its peer, by the log: the status forgets old events."""
    report = node.rpc("resource.status", name="r0")
    assert report["state"] == "running" and report["engine"]["peers"][0]["replication"] == "Established"
    return node.log.read_text().count('"peer.lost"')


def closed(sock: socket.socket) -> bool:
    """Whether the other end closes the connection within the socket's timeout, whatever it says before."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def option(number: int, length: int, body: bytes = b"") -> bytes:
    """An NBD option that claims a length."""
    return struct.pack(">QII", _IHAVEOPT, number, length) + body


GREETING = struct.pack(">I", 3)
HANDSHAKES = {
    "noise": random.Random(5).randbytes(4096),
    "unknown-flags": struct.pack(">I", 0xFFFFFFFF),
    "no-magic": GREETING + b"\0" * 64,
    "oversized-option": GREETING + option(7, 0xFFFFFFFF, b"x" * 65536),
    "export-name-of-4GiB": GREETING + option(1, 0xFFFFFFFF, b"x" * 65536),
}


@pytest.mark.parametrize("kind", HANDSHAKES)
def test_garbage_in_the_handshake_ends_that_connection_alone(cluster: Cluster, kind: str) -> None:
    before = losses(cluster.a)
    with NbdClient(cluster.a.nbd) as other:
        with greeted(cluster.a.nbd) as sock:
            sock.settimeout(20)
            # It may be closed before the last byte.
            with contextlib.suppress(ConnectionError):
                sock.sendall(HANDSHAKES[kind])
            assert closed(sock)
        other.write(0, kind.encode().ljust(4096, b"."))
        assert other.read(0, 4096).startswith(kind.encode())
    assert losses(cluster.a) == before
    cluster.assert_equal()


@pytest.mark.parametrize("kind", ["noise", "bad-magic", "oversized-write"])
def test_garbage_in_the_transmission_ends_that_connection_alone(cluster: Cluster, kind: str) -> None:
    sent = {
        "noise": random.Random(6).randbytes(8192),
        "bad-magic": struct.pack(">IHHQQI", 0x25609514, 0, 0, 1, 0, 4096),
        "oversized-write": struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 0xFFFFFFFF) + b"x" * 65536,
    }[kind]
    before = losses(cluster.a)
    with NbdClient(cluster.a.nbd) as other:
        broken = NbdClient(cluster.a.nbd)
        broken.socket.settimeout(20)
        with broken.socket:
            with contextlib.suppress(ConnectionError):
                broken.socket.sendall(sent)
            assert closed(broken.socket)
        other.write(0, kind.encode().ljust(4096, b"."))
        assert other.read(0, 4096).startswith(kind.encode())
    assert losses(cluster.a) == before
    cluster.assert_equal()


@pytest.mark.parametrize(
    ("command", "offset", "length"),
    [(0, SIZE, 4096), (1, SIZE - 4096, 8192), (0, (1 << 64) - 4096, 8192), (99, 0, 0), (4, SIZE, 4096)],
)
def test_a_request_that_cannot_be_is_answered_with_an_error(
    cluster: Cluster, command: int, offset: int, length: int
) -> None:
    with NbdClient(cluster.a.nbd) as client:
        data = bytes(length) if command == 1 else b""
        client.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 77, offset, length) + data)
        magic, error, cookie = struct.unpack(">IIQ", client.socket.recv(16, socket.MSG_WAITALL))
        assert (magic, cookie) == (0x67446698, 77) and error != 0
        assert len(client.read(0, 4096)) == 4096


def hello(cluster: Cluster) -> bytes:
    """What node a says first to b, caught at b's port while b is away."""
    cluster.b.kill()
    with socket.create_server(("127.0.0.1", cluster.b.port)) as server:
        server.settimeout(30)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            said = connection.recv(65536)
    cluster.b.start()
    cluster.b.wait("synced")
    cluster.a.wait("synced")
    return said


def test_garbage_on_the_replication_port_ends_that_connection_alone(cluster: Cluster) -> None:
    said = hello(cluster)
    assert len(said) > 32
    cases = [
        b"",
        os.urandom(4096),
        b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        b"\0" * 65536,
        b"\xff" * 65536,
        said[:-1],
        said[: len(said) // 2],
    ]
    for position in range(0, len(said), 3):
        cases.append(said[:position] + bytes([said[position] ^ 0x80]) + said[position + 1 :])
    before = losses(cluster.a), losses(cluster.b)
    with NbdClient(cluster.a.nbd) as client, contextlib.ExitStack() as stack:
        # All at once: those that say too little are only cut off after a while.
        sockets = []
        for node in cluster.nodes:
            for case in cases:
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=20))
                with contextlib.suppress(ConnectionError):
                    sock.sendall(case)
                sockets.append((node.name, case, sock))
        client.write(0, b"meanwhile".ljust(4096, b"."), Flag.FUA)
        for name, case, sock in sockets:
            assert closed(sock), f"{name} keeps a connection open that said {case[:80]!r}"
        client.write(4096, b"afterwards".ljust(4096, b"."), Flag.FUA)
    assert (losses(cluster.a), losses(cluster.b)) == before
    cluster.assert_equal()
