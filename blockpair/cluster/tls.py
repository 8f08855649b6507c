"""TLS on a socket, for asyncio: unlike asyncio's own, it sends an alert to who is refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from blockpair.config.names import Address

_CHUNK = 1 << 16
# How long, and how much, an end listens to what is still on its way to it: were it to close at once, the
# kernel would answer that with a reset, which may overtake the last thing said.
_FAREWELL_SECONDS = 1.0
_FAREWELL_BYTES = 1 << 20
_Result = TypeVar("_Result")


class TlsStream:
    """One end of a connection, which it owns. One task may read while another one writes."""

    def __init__(
        self,
        connection: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        name: str | None = None,
    ) -> None:
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=name
        )
        self._held = bytearray()
        # A reader may have something to send too: an alert, or the answer to a change of keys.
        self._sending = asyncio.Lock()

    async def handshake(self) -> None:
        """Raises `OSError` (`ssl.SSLError` is one)."""
        await self._drive(self._tls.do_handshake)

    def protocol(self) -> str | None:
        """The application protocol agreed on."""
        return self._tls.selected_alpn_protocol()

    def context(self) -> ssl.SSLContext:
        """The one that counts: a server may choose another one by the name that it was called by."""
        return self._tls.context

    def certificate(self) -> bytes | None:
        """The other side's, in binary form."""
        return self._tls.getpeercert(binary_form=True)

    def keep_alive(self, seconds: int = 60) -> None:
        """Notice within ``seconds``, at least 6, that the other side's machine is gone, though nothing is
        said for weeks.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, seconds // 2),
            (socket.TCP_KEEPINTVL, seconds // 6),
            (socket.TCP_KEEPCNT, 3),
            # What was sent and not confirmed keeps the kernel from asking, for a quarter of an hour.
            (socket.TCP_USER_TIMEOUT, seconds * 1000),
        ):
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)

    def local_host(self) -> str:
        """This side's address on the connection."""
        return str(self._socket.getsockname()[0])

    async def read_line(self, limit: int) -> bytes | None:
        """The next line without its end, None where there is no more. Raises `ValueError` for one of more
        than ``limit`` bytes, `OSError`.
        """
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0 and len(self._held) <= limit:
            searched = len(self._held)
            try:
                data = await self._drive(self._tls.read, _CHUNK)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return None
            if not data:
                return None
            self._held += data
        if end < 0 or end > limit:
            raise ValueError(f"a line has more than {limit} bytes")
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    async def write(self, data: bytes) -> None:
        """Send all of it. Raises `OSError`."""
        await self._drive(self._tls.write, data)

    async def close(self) -> None:
        """Say farewell, bounded in time, and close the socket, whatever the other side does."""
        try:
            with contextlib.suppress(OSError, TimeoutError):
                with contextlib.suppress(OSError):
                    self._tls.unwrap()
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await self._flush()
                await part(self._socket)
        finally:
            self._socket.close()

    async def _drive(self, operation: Callable[..., _Result], *arguments: Any) -> _Result:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = operation(*arguments)
            except ssl.SSLWantReadError:
                await self._flush()
                data = await loop.sock_recv(self._socket, _CHUNK)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
                continue
            except ssl.SSLError:
                # What the other side did wrong is told to it.
                with contextlib.suppress(OSError):
                    await self._flush()
                raise
            await self._flush()
            return result

    async def _flush(self) -> None:
        while self._outgoing.pending:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._socket, self._outgoing.read())


async def part(connection: socket.socket) -> None:
    """End the sending side, and wait for the other's end, so that it reads what it was told last; bounded in
    time and amount. Raises `OSError`.
    """
    loop = asyncio.get_running_loop()
    connection.shutdown(socket.SHUT_WR)
    left = _FAREWELL_BYTES
    async with asyncio.timeout(_FAREWELL_SECONDS):
        while left > 0 and (data := await loop.sock_recv(connection, _CHUNK)):
            left -= len(data)


async def dial(address: Address) -> socket.socket:
    """A connection to ``address``, by whichever of its host's addresses answers first in order. Raises
    `OSError`.
    """
    loop = asyncio.get_running_loop()
    failure: OSError = OSError("the host has no address")
    for family, kind, protocol, _, place in await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        connection = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(connection, place)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure
