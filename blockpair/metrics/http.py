"""The port where Prometheus asks: HTTP/1.1, ``GET /metrics``, one answer a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11

from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind

PATH = "/metrics"
# A scraper or two, and a person: whoever opens more waits for nobody's memory.
MAX_CONNECTIONS = 16
# A whole exchange, the gathering included.
EXCHANGE_SECONDS = 10.0
_READ_BYTES = 16 << 10
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """What is answered, and of which content type."""

    content_type: str
    body: bytes


class _Refused(Exception):
    """A request that gets no page: the HTTP status, and why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class MetricsServer:
    """``page`` makes the answer from what the scraper accepts."""

    def __init__(self, page: Callable[[str], Awaitable[Page]]) -> None:
        self._page = page
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, address: Address) -> int:
        """Listen; the port in use. Raises `BlockpairError`."""
        try:
            self._server = await asyncio.start_server(self._connected, address.host, address.port)
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO,
                f"the metrics cannot be served on {address}: {error.strerror or error}",
                "choose a free port of this machine: listen in [metrics] of blockpair.toml; "
                "then restart blockpaird",
            ) from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more, and end the exchanges that are under way."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # Whoever asked has gone, is too slow, or the daemon ends: there is nobody to tell.
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        bodiless = False
        try:
            request = await _request(http, reader)
            if request is None:
                return
            bodiless = request.method == b"HEAD"
            status, answer = 200, await self._page(_checked(request))
        except _Refused as refused:
            status, answer = refused.status, Page(_TEXT, f"{refused}\n".encode())
        except h11.RemoteProtocolError as error:
            status, answer = error.error_status_hint, Page(_TEXT, f"{error}\n".encode())
        writer.write(_response(http, status, answer, bodiless=bodiless))
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Whole, but for a body; None where the other end only came to look."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        http.receive_data(await reader.read(_READ_BYTES))


def _checked(request: h11.Request) -> str:
    """What the scraper accepts. Raises `_Refused`."""
    if request.method not in (b"GET", b"HEAD"):
        raise _Refused(405, "only GET is answered")
    if request.target.partition(b"?")[0] != PATH.encode():
        raise _Refused(404, f"there is nothing here but {PATH}")
    return ",".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")


def _response(http: h11.Connection, status: int, answer: Page, *, bodiless: bool) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
    ]
    if status == 405:
        headers.append(("Allow", "GET, HEAD"))
    head = http.send(h11.Response(status_code=status, headers=headers)) or b""
    return head if bodiless else head + answer.body
