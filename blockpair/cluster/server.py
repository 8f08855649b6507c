"""The control port: calls from other members, and from nodes that want to join. It is open to the network, so
everything a stranger can use up has a bound, and nobody waits for anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from blockpair.cluster.throttle import Throttle
from blockpair.cluster.tls import TlsStream, part
from blockpair.config.files import explain
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.rpc.messages import ErrorObject, Id, Request, RpcError
from blockpair.trust.authority import certified_name
from blockpair.trust.contexts import ALPN

MAX_LINE_BYTES = 1 << 20
MAX_GUEST_LINE_BYTES = 64 << 10
# Connections that have not shown a certificate: beyond this one goes, the oldest of the address that has
# most: a flood from one address drowns itself, and a newcomer from another always gets its turn.
MAX_UNPROVEN = 256
# Hello, request and perhaps a word of farewell.
MAX_GUEST_CALLS = 4
MAX_PROVEN = 128
MAX_PROVEN_OF_ONE = 32
HANDSHAKE_SECONDS = 5.0
GUEST_SECONDS = 30.0
IDLE_SECONDS = 60.0
_LAST_ANSWER_SECONDS = 1.0
_BACKLOG = 1024
_LOGGED = 200
_TLS_HANDSHAKE = 0x16


@dataclass(frozen=True)
class PeerMethod:
    """A method: the form of its parameters, and what carries it out for the caller of that name."""

    params: type[Any]
    run: Callable[[str, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Policy:
    """Who may do what. ``admit`` raises `BlockpairError` where a node with a certificate of that name may not
    call that method. ``guest`` gives the methods of one caller without a certificate, known by its address.
    """

    admit: Callable[[str, str], None]
    guest: Callable[[str], dict[str, PeerMethod]]


class ControlServer:
    """Serves ``methods`` to members. The dict may grow while it serves."""

    def __init__(self, methods: dict[str, PeerMethod], policy: Policy) -> None:
        self._methods = methods
        self._policy = policy
        self._log = structlog.get_logger().bind(part="control")
        self._throttle = Throttle(limit=20, window_seconds=10.0)
        self._listener: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._generation = 0
        self._accepting: asyncio.Task[None] | None = None
        # In the order of their arrival.
        self._unproven: dict[asyncio.Task[None], str] = {}
        self._proven: dict[asyncio.Task[None], str] = {}

    @property
    def port(self) -> int | None:
        """Where it listens, if it does."""
        return None if self._listener is None else int(self._listener.getsockname()[1])

    async def start(self, address: Address, context: ssl.SSLContext) -> None:
        """Listen. Raises `BlockpairError`."""
        self._context = context
        self._listener = await _bind(address)
        self._accepting = asyncio.create_task(self._accept())

    def set_context(self, context: ssl.SSLContext) -> None:
        """From now on this is the trust: a connection of the old one ends after the call it is in."""
        self._context = context
        self._generation += 1
        for task in list(self._unproven):
            task.cancel()

    async def close(self) -> None:
        """Stop listening and end every connection; a call that has begun is finished first."""
        tasks = [*self._unproven, *self._proven]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._listener is not None:
            self._listener.close()
        self._listener = self._accepting = None

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listener is not None
        while True:
            try:
                connection, remote = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._refused("everybody", "this process has no room for more connections")
                    self._evict()
                    await asyncio.sleep(0.1)
                continue
            who = str(Address(remote[0], remote[1]))
            if len(self._unproven) >= MAX_UNPROVEN:
                self._evict()
            task = asyncio.create_task(self._serve(connection, who))
            self._unproven[task] = who
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._unproven.pop(task, None)
        self._proven.pop(task, None)

    def _evict(self) -> None:
        counts = Counter(map(_host, self._unproven.values()))
        if counts:
            host, _ = counts.most_common(1)[0]
            task = next(task for task, who in self._unproven.items() if _host(who) == host)
            self._refused(self._unproven.pop(task), "too many connections that prove nothing: one goes")
            task.cancel()

    def _refused(self, who: str, why: str) -> None:
        """Log it, but never as often as a stranger likes."""
        found = self._throttle.admit(asyncio.get_running_loop().time())
        if found is not None:
            more = {"not_logged": found} if found else {}
            # A stranger chooses the words of some of it.
            self._log.warning("peer.refused", remote=who, text=why[:_LOGGED], **more)

    async def _serve(self, connection: socket.socket, who: str) -> None:
        stream = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                if not await _speaks_tls(connection):
                    self._refused(who, "it does not speak TLS")
                    return
                assert self._context is not None
                stream = TlsStream(connection, self._context, server_side=True)
                await stream.handshake()
            await self._converse(stream, who)
        except TimeoutError:
            self._refused(who, f"it did not finish a TLS handshake within {HANDSHAKE_SECONDS:g} s")
        except ssl.SSLError as error:
            self._refused(who, explain_refusal(error))
        except OSError as error:
            self._refused(who, f"it hung up: {error.strerror or type(error).__name__}")
        except ValueError as error:
            self._refused(who, str(error))
        finally:
            task = asyncio.current_task()
            # No farewell to who was put out: what it holds is wanted now.
            if stream is not None and (task in self._unproven or task in self._proven):
                await stream.close()
            connection.close()

    async def _converse(self, stream: TlsStream, who: str) -> None:
        if stream.protocol() != ALPN:
            self._refused(who, "it does not speak the control port's protocol")
            return
        certificate = stream.certificate()
        if certificate is None:
            try:
                async with asyncio.timeout(GUEST_SECONDS):
                    await self._serve_guest(stream, who)
            except TimeoutError:
                self._refused(who, f"it was not done within {GUEST_SECONDS:g} s")
            return
        # Raises `TrustError`, a `ValueError`.
        name = certified_name(certificate)
        task = asyncio.current_task()
        assert task is not None
        if len(self._proven) >= MAX_PROVEN or list(self._proven.values()).count(name) >= MAX_PROVEN_OF_ONE:
            self._refused(who, f"{name} has too many connections")
            await stream.write(_full())
            return
        self._unproven.pop(task, None)
        self._proven[task] = name
        await self._serve_member(stream, name)

    async def _serve_guest(self, stream: TlsStream, who: str) -> None:
        methods = self._policy.guest(who)
        for _ in range(MAX_GUEST_CALLS):
            line = await stream.read_line(MAX_GUEST_LINE_BYTES)
            if line is None:
                return
            await self._answer(stream, line, methods, who, lambda _: None)

    async def _serve_member(self, stream: TlsStream, name: str) -> None:
        generation = self._generation
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    line = await stream.read_line(MAX_LINE_BYTES)
            except TimeoutError:
                return
            # What was proved was proved to another trust.
            if line is None or generation != self._generation:
                return

            def admit(method: str) -> None:
                if generation != self._generation:
                    raise RpcError(messages.INVALID_REQUEST, "this node's trust was changed meanwhile")
                self._policy.admit(name, method)

            await self._answer(stream, line, self._methods, name, admit)

    async def _answer(
        self,
        stream: TlsStream,
        line: bytes,
        methods: dict[str, PeerMethod],
        who: str,
        admit: Callable[[str], None],
    ) -> None:
        """A call that has begun is finished and answered, even if this connection is ended meanwhile."""
        call = asyncio.ensure_future(self._carry_out(line, methods, who, admit))
        try:
            answer = await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait({call})
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_LAST_ANSWER_SECONDS):
                    await stream.write(call.result())
            raise
        async with asyncio.timeout(IDLE_SECONDS):
            await stream.write(answer)

    async def _carry_out(
        self, line: bytes, methods: dict[str, PeerMethod], who: str, admit: Callable[[str], None]
    ) -> bytes:
        call_id: Id = None
        method_name = "?"
        try:
            request: Request = messages.decode_request(line)
            call_id = None if isinstance(request.id, msgspec.UnsetType) else request.id
            method_name = request.method[:64]
            admit(request.method)
            method = methods.get(request.method)
            if method is None:
                raise RpcError(messages.METHOD_NOT_FOUND, f"there is no method {method_name!r} for {who}")
            try:
                params = msgspec.json.decode(request.params, type=method.params)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                key, reason, _ = explain(str(error))
                fault = f"{method_name}: {key or 'params'}: {reason}"
                raise RpcError(messages.INVALID_PARAMS, fault) from None
            return messages.encode_result(call_id, await method.run(who, params))
        except RpcError as error:
            self._refused(who, str(error))
            return messages.encode_error(call_id, ErrorObject(error.code, str(error)))
        except BlockpairError as error:
            self._refused(who, f"{method_name}: {error.message}")
            return messages.encode_error(call_id, messages.error_object(error))
        except Exception as error:
            self._log.exception("peer.crash", remote=who, method=method_name)
            internal = BlockpairError(
                ErrorKind.INTERNAL,
                f"blockpaird met an error it did not expect: {type(error).__name__}",
                "the details are in the log of that node; please report them",
            )
            return messages.encode_error(call_id, messages.error_object(internal))


def explain_refusal(error: ssl.SSLError) -> str:
    """Why a caller's handshake was refused, in a person's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return f"its certificate is not one of this cluster: {why}"
    reason = error.reason or ""
    if reason in ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "TLSV1_ALERT_PROTOCOL_VERSION"):
        return "it speaks a TLS older than 1.3"
    if "UNKNOWN_CA" in reason or "CERTIFICATE" in reason:
        return "it does not accept this node's certificate: it is no member, or no more"
    return f"its TLS handshake failed: {reason.replace('_', ' ').lower() or error}"


def _full() -> bytes:
    error = BlockpairError(ErrorKind.FAILED, "too many connections of this node", "try again in a moment")
    return messages.encode_error(None, messages.error_object(error))


async def _speaks_tls(connection: socket.socket) -> bool:
    """Look at the first byte without taking it; who speaks in the clear is told, in the clear."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _resolve, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    first = connection.recv(1, socket.MSG_PEEK)
    if not first or first[0] == _TLS_HANDSHAKE:
        return True
    error = BlockpairError(
        ErrorKind.FAILED,
        "this is a control port of blockpair: it speaks TLS 1.3 to members of its cluster alone",
        "to join the cluster: `blockpair cluster join`",
    )
    with contextlib.suppress(OSError):
        connection.send(messages.encode_error(None, messages.error_object(error)))
        await part(connection)
    return False


def _host(who: str) -> str:
    return who.rpartition(":")[0]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _bind(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"the control port {address} cannot be opened: {error.strerror}",
            "free that port, or set another one as control in [node] of blockpair.toml",
        ) from None
