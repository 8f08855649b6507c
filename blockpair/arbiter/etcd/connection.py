"""One connection to a member of etcd: HTTP/1.1 over TLS, a request after the other."""

from __future__ import annotations

import asyncio
import ssl

import h11

# More than the largest value that etcd takes: one that somebody else wrote is told as such.
_MAX_ANSWER_BYTES = 4 << 20
_READ_BYTES = 64 << 10


class AnswerError(Exception):
    """What came is no answer of HTTP, or none came before the connection ended."""


class Connection:
    """To ``host``, which has proved to be it."""

    def __init__(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext) -> Connection:
        """A new one. Raises `OSError`, of which `ssl.SSLError` is one."""
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        return cls(host, reader, writer)

    @property
    def usable(self) -> bool:
        """Whether it can take a request, as far as is known here."""
        ready = self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE
        return ready and not self._reader.at_eof() and not self._writer.is_closing()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and body that ``path`` answers to a JSON ``body``. Raises `OSError`, `AnswerError`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        headers = [("Host", host), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        for event in (
            h11.Request(method="POST", target=path, headers=headers),
            h11.Data(body),
            h11.EndOfMessage(),
        ):
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()
        try:
            return await self._answer()
        except h11.RemoteProtocolError as error:
            raise AnswerError(f"its answer is not HTTP: {error}") from None

    async def _answer(self) -> tuple[int, bytes]:
        status, answer = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_READ_BYTES)
                if not data and not status:
                    raise AnswerError("it closed the connection without an answer")
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) > _MAX_ANSWER_BYTES:
                    raise AnswerError(f"it answered more than {_MAX_ANSWER_BYTES} bytes")
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                return status, bytes(answer)
            elif isinstance(event, h11.ConnectionClosed):
                raise AnswerError("it closed the connection without an answer")

    def end(self) -> None:
        """Close it, whatever is under way on it."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it in good order, if the other end is there for it."""
        self._writer.close()
        try:
            async with asyncio.timeout(0.5):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.end()
