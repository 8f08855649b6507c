"""A small NBD client: fixed newstyle on a Unix socket, simple replies, many requests in flight."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

_NBDMAGIC = 0x4E42444D41474943
_IHAVEOPT = 0x49484156454F5054
_OPTION_REPLY = 0x0003E889045565A9
_REQUEST = 0x25609513
_SIMPLE_REPLY = 0x67446698
_FIXED_NEWSTYLE_NO_ZEROES = 3
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_INFO_EXPORT = 0
TIMEOUT_SECONDS = 60.0


class Command(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class Flag(IntFlag):
    """How a request is to be carried out."""

    FUA = 1
    NO_HOLE = 2


NONE = Flag(0)


@dataclass
class Request:
    """A request; ``error`` is None until its reply came, then 0 or an errno."""

    cookie: int
    command: Command
    offset: int
    length: int
    error: int | None = None
    data: bytes = b""


def greeted(path: Path) -> socket.socket:
    """A connection of which only the greeting was read."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_SECONDS)
    sock.connect(str(path))
    magic, option_magic, _ = struct.unpack(">QQH", _exactly(sock, 18))
    assert (magic, option_magic) == (_NBDMAGIC, _IHAVEOPT)
    return sock


def _exactly(sock: socket.socket, count: int) -> bytes:
    """``count`` bytes. Raises `ConnectionError` where the stream ends before."""
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise ConnectionResetError("the NBD server closed the connection")
        parts += part
    return bytes(parts)


class NbdClient:
    """A connection in the transmission phase. Methods raise `ConnectionError` when the server is gone."""

    def __init__(self, path: Path, export: str = "") -> None:
        self.socket = greeted(path)
        self.size = 0
        self.in_flight: dict[int, Request] = {}
        self._cookie = 0
        name = export.encode()
        payload = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        option = struct.pack(">QII", _IHAVEOPT, _OPT_GO, len(payload)) + payload
        self.socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE_NO_ZEROES) + option)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", _exactly(self.socket, 20))
            body = _exactly(self.socket, length)
            assert magic == _OPTION_REPLY and kind in (_REP_ACK, _REP_INFO), (kind, body)
            if kind == _REP_ACK:
                break
            if struct.unpack_from(">H", body)[0] == _INFO_EXPORT:
                (self.size,) = struct.unpack_from(">Q", body, 2)

    @property
    def next_cookie(self) -> int:
        """That of the next request."""
        return self._cookie + 1

    def send(
        self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"", flags: Flag = NONE
    ) -> Request:
        """Send a request and return without its reply."""
        self._cookie += 1
        request = Request(self._cookie, command, offset, len(data) or length)
        header = struct.pack(">IHHQQI", _REQUEST, flags, command, request.cookie, offset, request.length)
        # Registered first: a request whose sending failed half-way may or may not be carried out.
        self.in_flight[request.cookie] = request
        self.socket.sendall(header + data)
        return request

    def reap(self) -> Request:
        """Wait for the next reply; the request that it answers."""
        magic, error, cookie = struct.unpack(">IIQ", _exactly(self.socket, 16))
        assert magic == _SIMPLE_REPLY, f"{magic:#x} is no simple reply"
        request = self.in_flight[cookie]
        if request.command is Command.READ and error == 0:
            request.data = _exactly(self.socket, request.length)
        request.error = error
        del self.in_flight[cookie]
        return request

    def call(
        self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"", flags: Flag = NONE
    ) -> Request:
        """Send a request and wait for its reply; those of others are dropped on the way."""
        request = self.send(command, offset, length, data, flags)
        while request.error is None:
            self.reap()
        return request

    def write(self, offset: int, data: bytes, flags: Flag = NONE) -> None:
        """Write; raises `OSError` with the server's errno."""
        self._done(self.call(Command.WRITE, offset, data=data, flags=flags))

    def read(self, offset: int, length: int) -> bytes:
        """Read; raises `OSError` with the server's errno."""
        return self._done(self.call(Command.READ, offset, length)).data

    def flush(self) -> None:
        """Flush; raises `OSError` with the server's errno."""
        self._done(self.call(Command.FLUSH))

    @staticmethod
    def _done(request: Request) -> Request:
        if request.error:
            raise OSError(request.error, f"{request.command.name} at {request.offset}")
        return request

    def close(self) -> None:
        """Take leave, as far as the server still listens."""
        try:
            self.socket.sendall(struct.pack(">IHHQQI", _REQUEST, 0, Command.DISC, 0, 0, 0))
        except OSError:
            pass
        finally:
            self.socket.close()

    def __enter__(self) -> NbdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
