"""The port of the metrics: what is answered, and that whoever misbehaves gets nothing and holds up nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockpair.config.names import Address
from blockpair.errors import BlockpairError
from blockpair.metrics import http
from blockpair.metrics.http import MAX_CONNECTIONS, MetricsServer, Page

LOOPBACK = Address("127.0.0.1", 0)
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n"


async def page(accept: str) -> Page:
    """Says what was accepted."""
    return Page("text/plain", f"accepted {accept}\n".encode())


async def ask(port: int, request: bytes) -> bytes:
    """All that comes back; nothing from who hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def served(
    work: Callable[[int, MetricsServer], Awaitable[None]], make: Callable[[str], Awaitable[Page]] = page
) -> None:
    """Do ``work`` while a server is there."""

    async def run() -> None:
        server = MetricsServer(make)
        port = await server.start(LOOPBACK)
        try:
            async with asyncio.timeout(30):
                await work(port, server)
        finally:
            await server.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (GET, 200, b"accepted text/plain\n"),
        (GET.replace(b"/metrics", b"/metrics?x=1"), 200, b"accepted text/plain\n"),
        (GET.replace(b"GET", b"HEAD"), 200, b""),
        (GET.replace(b"/metrics", b"/"), 404, b"there is nothing here but /metrics\n"),
        (GET.replace(b"GET", b"POST"), 405, b"only GET is answered\n"),
        (b"nonsense\r\n\r\n", 400, b"illegal request line: bytearray(b'nonsense')\n"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 4000, 431, b"Receive buffer too long\n"),
    ],
)
def test_what_is_answered(request_: bytes, status: int, body: bytes) -> None:
    async def work(port: int, _server: MetricsServer) -> None:
        head, _, text = (await ask(port, request_)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert text == body
        assert b"\r\nConnection: close" in head

    served(work)


_PIECES = [
    b"GET ",
    b"/metrics",
    b" HTTP/1.1",
    b"\r\n",
    b"Content-Length: 9",
    b"Transfer-Encoding: chunked",
    b": ",
]


@given(st.lists(st.binary(max_size=200) | st.lists(st.sampled_from(_PIECES)).map(b"".join), max_size=5))
@settings(deadline=None, max_examples=100)
def test_no_bytes_are_too_strange(strange: list[bytes]) -> None:
    crashes: list[object] = []

    async def work(port: int, _: MetricsServer) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: crashes.append(context))
        for request in strange:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        assert b"accepted" in await ask(port, GET)

    served(work)
    assert not crashes


def test_who_stays_silent_is_sent_away_and_the_others_are_answered_meanwhile() -> None:
    async def work(port: int, _: MetricsServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /met")
        assert b"accepted" in await ask(port, GET)
        assert await reader.read() == b""
        writer.close()

    with patch.object(http, "EXCHANGE_SECONDS", 0.2):
        served(work)


def test_too_many_at_once_are_refused_and_it_serves_again_when_they_go() -> None:
    async def work(port: int, _server: MetricsServer) -> None:
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        assert await ask(port, GET) == b""
        for _, writer in waiting:
            writer.close()
        for reader, _ in waiting:
            await reader.read()
        assert b"accepted" in await ask(port, GET)

    served(work)


def test_an_end_waits_for_nobody() -> None:
    begun = asyncio.Event()

    async def never(_accept: str) -> Page:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def work(port: int, server: MetricsServer) -> None:
        asking = asyncio.create_task(ask(port, GET))
        await begun.wait()
        await server.close()
        assert await asking == b""

    served(work, never)


def test_a_port_that_is_taken_is_told_with_a_remedy() -> None:
    async def work(port: int, _: MetricsServer) -> None:
        with pytest.raises(BlockpairError, match=str(port)) as refused:
            await MetricsServer(page).start(Address("127.0.0.1", port))
        assert "[metrics]" in refused.value.remedy

    served(work)
