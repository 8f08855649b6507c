"""The control port, and calls to it, in one process: who is let in, what strangers can use up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blockpair.cluster import door
from blockpair.cluster import server as control
from blockpair.cluster.peers import Peers, connect, exchange
from blockpair.cluster.server import ControlServer, PeerMethod, Policy
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.messages import NoParams
from blockpair.trust.authority import Authority, issue, new_authority, new_key, new_request
from blockpair.trust.contexts import client_context, joining_context, server_context

NOW = datetime.now(UTC)


class Trust:
    """A node's certificate, in files."""

    def __init__(self, directory: Path, authority: Authority, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        key = new_key()
        self.ca = authority.certificate
        self.chain, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        self.chain.write_text(issue(authority, new_request(name, key), name, NOW))
        self.key.write_text(key)

    def server(self) -> ssl.SSLContext:
        return server_context(self.ca, self.chain, self.key)

    def client(self) -> ssl.SSLContext:
        return client_context(self.ca, self.chain, self.key)


@pytest.fixture(scope="module")
def trusts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trust]:
    base = tmp_path_factory.mktemp("trust")
    ours, other = new_authority("ours", NOW), new_authority("ours", NOW)
    return {
        **{name: Trust(base / "ours", ours, name) for name in ("a", "b", "c")},
        "stranger": Trust(base / "other", other, "b"),
    }


async def hello(peer: str, _params: Any) -> str:
    return f"hello {peer}"


async def failing(peer: str, _params: Any) -> str:
    raise BlockpairError(ErrorKind.UNSAFE, f"not for {peer}", "ask somebody else")


def admit(name: str, method: str) -> None:
    if name == "c":
        raise BlockpairError(ErrorKind.FAILED, "c is no member", "join")


def run(
    trusts: dict[str, Trust], body: Callable[[ControlServer, Callable[[Trust, str], Peers]], Awaitable[None]]
) -> None:
    async def whole() -> None:
        methods = {"peer.hello": PeerMethod(NoParams, hello), "peer.failing": PeerMethod(NoParams, failing)}
        server = ControlServer(methods, Policy(admit, lambda _: {"join.hello": PeerMethod(NoParams, hello)}))
        await server.start(Address("127.0.0.1", 0), trusts["a"].server())
        assert server.port is not None
        port = server.port

        def peers(trust: Trust, host: str = "127.0.0.1") -> Peers:
            return Peers(lambda _: [Address(host, port)], trust.client)

        try:
            await body(server, peers)
        finally:
            await asyncio.wait_for(server.close(), 10)

    asyncio.run(whole())


async def refused(call: Awaitable[Any]) -> BlockpairError:
    with pytest.raises(BlockpairError) as caught:
        await call
    assert caught.value.remedy
    return caught.value


def test_a_member_is_answered_under_its_certified_name(trusts: dict[str, Trust]) -> None:
    async def body(_server: ControlServer, peers: Any) -> None:
        assert await peers(trusts["b"]).call("a", "peer.hello", {}, timeout=5) == "hello b"
        error = await refused(peers(trusts["b"]).call("a", "peer.failing", {}, timeout=5))
        assert (error.kind, error.message, error.remedy) == (
            ErrorKind.UNSAFE,
            "not for b",
            "ask somebody else",
        )
        error = await refused(peers(trusts["b"]).call("a", "join.hello", {}, timeout=5))
        assert "no method" in error.message
        error = await refused(peers(trusts["b"]).call("a", "peer.hello", {"x": 1}, timeout=5))
        assert "x" in error.message

    run(trusts, body)


def test_who_is_no_member_is_refused_by_name(trusts: dict[str, Trust]) -> None:
    async def body(_server: ControlServer, peers: Any) -> None:
        error = await refused(peers(trusts["c"]).call("a", "peer.hello", {}, timeout=5))
        assert "no member" in error.message

    run(trusts, body)


def test_another_node_at_the_address_is_not_taken_for_the_one_meant(trusts: dict[str, Trust]) -> None:
    async def body(_server: ControlServer, peers: Any) -> None:
        error = await refused(peers(trusts["b"]).call("c", "peer.hello", {}, timeout=5))
        assert error.kind is ErrorKind.UNREACHABLE
        assert "another node, not of c" in error.message

    run(trusts, body)


def test_a_certificate_of_another_authority_is_refused_on_both_sides(
    trusts: dict[str, Trust], capsys: pytest.CaptureFixture[str]
) -> None:
    async def body(_server: ControlServer, peers: Any) -> None:
        error = await refused(peers(trusts["stranger"]).call("a", "peer.hello", {}, timeout=5))
        assert error.kind is ErrorKind.UNREACHABLE
        assert "no valid certificate of this cluster" in error.message
        # One that trusts us, but whom we do not trust.
        mixed = client_context(trusts["a"].ca, trusts["stranger"].chain, trusts["stranger"].key)
        error = await refused(
            Peers(lambda _: [Address("127.0.0.1", _server.port or 0)], lambda: mixed).call(
                "a", "peer.hello", {}, timeout=5
            )
        )
        assert "does not accept this node's certificate" in error.message

    run(trusts, body)
    assert "not one of this cluster" in capsys.readouterr().out


def test_a_guest_has_no_method_but_join(trusts: dict[str, Trust]) -> None:
    async def body(server: ControlServer, _peers: Any) -> None:
        stream = await connect(Address("127.0.0.1", server.port or 0), joining_context(), None)
        assert (await exchange(stream, "join.hello", {})).startswith("hello 127.0.0.1:")
        error = await refused(exchange(stream, "peer.hello", {}))
        assert "no method" in error.message
        await stream.close()

    run(trusts, body)


def test_plain_tcp_is_told_what_this_port_is(trusts: dict[str, Trust]) -> None:
    async def body(server: ControlServer, _peers: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b'{"jsonrpc":"2.0","id":1,"method":"peer.hello"}\n')
        assert b"TLS 1.3" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()

    run(trusts, body)


@pytest.mark.parametrize(("alpn", "version"), [("blockpair/1", 0x0304), ("blockpair-control/1", 0x0303)])
def test_another_protocol_and_an_old_tls_are_refused(
    trusts: dict[str, Trust], alpn: str, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def body(server: ControlServer, _peers: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion(version)
        context.set_alpn_protocols([alpn])
        context.load_cert_chain(trusts["b"].chain, trusts["b"].key)
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            writer.write(b'{"jsonrpc":"2.0","id":1,"method":"peer.hello"}\n')
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    run(trusts, body)
    told = capsys.readouterr().out
    assert ("older than 1.3" if version == 0x0303 else "control port's protocol") in told


def test_a_thousand_half_open_connections_hold_up_nobody(
    trusts: dict[str, Trust], capsys: pytest.CaptureFixture[str]
) -> None:
    async def body(server: ControlServer, peers: Any) -> None:
        sockets = []
        try:
            for number in range(1000):
                strange = socket.socket()
                strange.setblocking(False)
                sockets.append(strange)
                await asyncio.get_running_loop().sock_connect(strange, ("127.0.0.1", server.port))
                # The first byte of a handshake, and no more.
                with contextlib.suppress(OSError):
                    strange.send(b"\x16" if number % 2 else b"")
            assert len(server._door.unproven) <= door.MAX_UNPROVEN
            assert await peers(trusts["b"]).call("a", "peer.hello", {}, timeout=5) == "hello b"
        finally:
            for strange in sockets:
                strange.close()

    run(trusts, body)
    assert capsys.readouterr().out.count("peer.refused") <= 40


def test_a_flood_from_one_address_drowns_itself(
    trusts: dict[str, Trust], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow machine must not end the honest one for its own slowness.
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 120.0)

    async def body(server: ControlServer, peers: Any) -> None:
        loop, sockets = asyncio.get_running_loop(), []

        async def strange(host: str, *, tls: bool) -> socket.socket:
            made = socket.socket()
            made.setblocking(False)
            made.bind((host, 0))
            sockets.append(made)
            await loop.sock_connect(made, ("127.0.0.1", server.port))
            if tls:
                made.send(b"\x16\x03\x01")
            return made

        try:
            honest = await strange("127.0.0.2", tls=True)
            before = _descriptors()
            for _ in range(3 * door.MAX_UNPROVEN):
                await strange("127.0.0.1", tls=True)
                # Who is put out holds nothing: the clients' ends, and those that are let be.
                assert _descriptors() - before <= len(sockets) + door.MAX_UNPROVEN + 16
            assert len(server._door.unproven) <= door.MAX_UNPROVEN
            with pytest.raises(BlockingIOError):
                honest.recv(1)
            assert await peers(trusts["b"]).call("a", "peer.hello", {}, timeout=5) == "hello b"
        finally:
            for made in sockets:
                made.close()

    run(trusts, body)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_guest_says_little_and_what_it_says_is_logged_short(
    trusts: dict[str, Trust], capsys: pytest.CaptureFixture[str]
) -> None:
    async def body(server: ControlServer, _peers: Any) -> None:
        stream = await connect(Address("127.0.0.1", server.port or 0), joining_context(), None)
        for _ in range(control.MAX_GUEST_CALLS):
            await refused(exchange(stream, "join.hello", {"x" * 30000: 1}))
        with pytest.raises(OSError):
            await exchange(stream, "join.hello", {})
        await stream.close()

    run(trusts, body)
    told = capsys.readouterr().out
    assert "peer.refused" in told and len(told) < 1000 * control.MAX_GUEST_CALLS


def test_a_half_open_handshake_ends(trusts: dict[str, Trust], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 0.2)

    async def body(server: ControlServer, _peers: Any) -> None:
        for first in (b"", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(first)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
            writer.close()

    run(trusts, body)


def test_after_a_change_of_trust_the_old_certificates_are_worth_nothing(trusts: dict[str, Trust]) -> None:
    async def body(server: ControlServer, peers: Any) -> None:
        stream = await connect(Address("127.0.0.1", server.port or 0), trusts["b"].client(), "a")
        assert await exchange(stream, "peer.hello", {}) == "hello b"
        server.set_context(trusts["stranger"].server())
        # A connection that was there already is not answered again.
        with pytest.raises(OSError):
            await exchange(stream, "peer.hello", {})
        await stream.close()
        await refused(peers(trusts["b"]).call("a", "peer.hello", {}, timeout=5))
        assert await peers(trusts["stranger"]).call("b", "peer.hello", {}, timeout=5) == "hello b"

    run(trusts, body)


def test_the_next_address_is_tried_and_the_failure_of_each_is_told(trusts: dict[str, Trust]) -> None:
    async def body(server: ControlServer, _peers: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            dead = Address("127.0.0.1", free.getsockname()[1])
            alive = Address("127.0.0.1", server.port or 0)
            both = Peers(lambda _: [dead, alive], trusts["b"].client)
            assert await both.call("a", "peer.hello", {}, timeout=5) == "hello b"
            neither = Peers(lambda _: [dead, dead], trusts["b"].client)
            error = await refused(neither.call("a", "peer.hello", {}, timeout=5))
            assert error.message.count(str(dead)) == 2

    run(trusts, body)


def test_a_line_without_end_is_bounded(trusts: dict[str, Trust]) -> None:
    async def body(server: ControlServer, _peers: Any) -> None:
        for trust, limit in ((trusts["b"], control.MAX_LINE_BYTES), (None, control.MAX_GUEST_LINE_BYTES)):
            context = joining_context() if trust is None else trust.client()
            stream = await connect(Address("127.0.0.1", server.port or 0), context, "a" if trust else None)
            with contextlib.suppress(ConnectionError):
                await stream.write(b"x" * (limit + 2) + b"\n")
                assert await asyncio.wait_for(stream.read_line(1 << 20), 5) is None
            await stream.close()

    run(trusts, body)
