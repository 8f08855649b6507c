"""The daemon's side of the socket: connections, limits, dispatch."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from blockpair.config.files import explain
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.rpc.framing import LineSplitter, LineTooLong
from blockpair.rpc.messages import ErrorObject, Id, Request, RpcError

MAX_CONNECTIONS = 64
# Of these, for who administers: whoever may only look cannot keep root out.
RESERVED_CONNECTIONS = 16
_GROUP = "blockpair"
_FAREWELL_SECONDS = 1.0
_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Caller:
    """Who is on the other end of a connection, as the kernel says."""

    pid: int
    uid: int
    gid: int

    @property
    def administers(self) -> bool:
        """Whether it is root, or the daemon's own user: who could do all that the daemon can anyway."""
        return self.uid in (0, os.geteuid())


@dataclass(frozen=True)
class Method:
    """A method: the form of its parameters and what carries it out.

    ``interruptible``: it changes nothing, so it is cancelled when its caller hangs up. ``read_only``: it
    changes nothing and tells nothing of what the disk holds, so whoever may use the socket may call it;
    anything else is for `Caller.administers`. A method that says nothing is not read-only.
    """

    params: type[Any]
    run: Callable[[Caller, Any], Awaitable[Any]]
    interruptible: bool = False
    read_only: bool = False


class Server:
    """Serves ``methods`` on a Unix socket; each connection's calls are carried out one after the other."""

    def __init__(self, methods: dict[str, Method], log_place: str) -> None:
        self._methods = methods
        self._log_place = log_place
        self._log = structlog.get_logger().bind(part="rpc")
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen on ``path``, mode 0660, of the group blockpair where there is one. The daemon's lock must be
        held.
        """
        listener = await asyncio.to_thread(_bind, path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=1 << 16)

    async def close(self) -> None:
        """Stop listening, let calls that change something end, and close every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        caller = _caller(writer)
        kept = 0 if caller.administers else RESERVED_CONNECTIONS
        if len(self._connections) >= MAX_CONNECTIONS - kept:
            error = BlockpairError(
                ErrorKind.FAILED,
                f"blockpaird already serves {MAX_CONNECTIONS - kept} callers",
                "try again in a moment",
            )
            writer.write(messages.encode_error(None, messages.error_object(error)))
            await _close(writer)
            return
        self._connections.add(task)
        try:
            await _Connection(self, caller, reader, writer).run()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            await _close(writer)

    async def answer(self, caller: Caller, request: Request) -> bytes:
        """Carry out a request and encode what it gives; never raises but for cancellation."""
        call_id: Id = None if isinstance(request.id, msgspec.UnsetType) else request.id
        try:
            method = self.method(request)
            self._check_right(caller, request, method)
            try:
                params = msgspec.json.decode(request.params, type=method.params)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                key, reason, _ = explain(str(error))
                raise RpcError(
                    messages.INVALID_PARAMS, f"{request.method}: {key or 'params'}: {reason}"
                ) from None
            line = messages.encode_result(call_id, await method.run(caller, params))
            if len(line) > messages.MAX_RESPONSE_BYTES:
                raise BlockpairError(ErrorKind.FAILED, "the answer is too long", "ask for less at a time")
            return line
        except RpcError as error:
            return messages.encode_error(call_id, ErrorObject(error.code, str(error)))
        except BlockpairError as error:
            return messages.encode_error(call_id, messages.error_object(error))
        except Exception as error:
            self._log.exception("rpc.crash", method=request.method)
            internal = BlockpairError(
                ErrorKind.INTERNAL,
                f"blockpaird met an error it did not expect: {type(error).__name__}: {error}",
                f"the details are in its log ({self._log_place}); please report them",
            )
            return messages.encode_error(call_id, messages.error_object(internal))

    def _check_right(self, caller: Caller, request: Request, method: Method) -> None:
        """Raises `BlockpairError` where ``caller`` may not call ``method``; the log says who tried."""
        if method.read_only or caller.administers:
            return
        self._log.warning("command.denied", method=request.method, uid=caller.uid, pid=caller.pid)
        raise BlockpairError(
            ErrorKind.NOT_PERMITTED,
            f"user {caller.uid} may not call {request.method}: the group {_GROUP} may look, "
            "only root may change anything",
            "run it as root, with sudo for instance",
        )

    def method(self, request: Request) -> Method:
        """The method a request names. Raises `RpcError`."""
        method = self._methods.get(request.method)
        if method is None:
            raise RpcError(messages.METHOD_NOT_FOUND, f"there is no method {request.method!r}")
        return method


class _Connection:
    def __init__(
        self, server: Server, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._caller = caller
        self._reader = reader
        self._writer = writer
        # Requests read ahead; when it is full the socket is left alone and the client waits.
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=8)
        self._current: asyncio.Task[bytes] | None = None
        self._interruptible = False

    async def run(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            while (line := await self._requests.get()) is not None:
                await self._serve(line)
            await reading
        except LineTooLong as error:
            await self._send(messages.encode_error(None, ErrorObject(messages.PARSE_ERROR, str(error))))
        finally:
            reading.cancel()

    async def _read(self) -> None:
        lines = LineSplitter(messages.MAX_REQUEST_BYTES)
        try:
            while data := await self._reader.read(1 << 16):
                for line in lines.feed(data):
                    if line.strip():
                        await self._requests.put(line)
        finally:
            if self._current is not None and self._interruptible:
                self._current.cancel()
            await self._requests.put(None)

    async def _serve(self, line: bytes) -> None:
        try:
            request = messages.decode_request(line)
        except RpcError as error:
            await self._send(messages.encode_error(None, ErrorObject(error.code, str(error))))
            return
        with contextlib.suppress(RpcError):
            self._interruptible = self._server.method(request).interruptible
        self._current = asyncio.create_task(self._server.answer(self._caller, request))
        try:
            # A change that has begun is finished even if the daemon is told to stop meanwhile.
            answer = await (self._current if self._interruptible else finish(self._current))
        except asyncio.CancelledError:
            if asyncio.current_task() is not None and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return
        finally:
            self._current, self._interruptible = None, False
        if not isinstance(request.id, msgspec.UnsetType):
            await self._send(answer)

    async def _send(self, line: bytes) -> None:
        self._writer.write(line)
        await self._writer.drain()


async def finish(task: asyncio.Task[bytes]) -> bytes:
    """Wait for ``task``; if the waiter is cancelled, only once the task has ended."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _bind(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    # The group first: nobody of another group may get in between.
    give_to_group(path)
    path.chmod(0o660)
    return listener


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        try:
            await asyncio.wait_for(writer.wait_closed(), _FAREWELL_SECONDS)
        except TimeoutError:
            # It does not read its answers, and would keep the daemon from ending.
            writer.transport.abort()


def _caller(writer: asyncio.StreamWriter) -> Caller:
    connection = writer.get_extra_info("socket")
    return Caller(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def give_to_group(path: Path, name: str = _GROUP) -> None:
    """Give ``path`` to the group ``name``, where that exists and we may."""
    try:
        group = grp.getgrnam(name).gr_gid
    except KeyError:
        return
    with contextlib.suppress(PermissionError):
        os.chown(path, -1, group)
