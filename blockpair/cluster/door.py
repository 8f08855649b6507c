"""A port that is open to the network: TLS 1.3 with certificates, and a bound for everything that a stranger
can use up. Nobody waits for anybody else.
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

import structlog

from blockpair.cluster.throttle import Throttle
from blockpair.cluster.tls import TlsStream, part
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages

# Connections that have not shown a certificate: beyond this one goes, the oldest of the address that has
# most: a flood from one address drowns itself, and a newcomer from another always gets its turn.
MAX_UNPROVEN = 256
MAX_PROVEN = 128
MAX_PROVEN_OF_ONE = 32
HANDSHAKE_SECONDS = 5.0
_BACKLOG = 1024
_LOGGED = 200
_TLS_HANDSHAKE = 0x16


@dataclass(frozen=True)
class Kind:
    """Which port it is. ``part``: its name in the log; ``plain``: what is told to who speaks in the clear;
    ``unopened``: what to do where it cannot be opened; ``proven`` and ``proven_of_one``: how many proven
    connections there may be, in all and of one name.
    """

    part: str
    alpn: str
    title: str
    plain: BlockpairError
    unopened: str
    proven: int = MAX_PROVEN
    proven_of_one: int = MAX_PROVEN_OF_ONE
    newest_stays: bool = False
    """Whether a name's connection too many ends its oldest one, instead of being refused."""


class Door:
    """Lets connections in. ``converse`` has each one from the end of its handshake; it calls `prove` once it
    knows whose it is, and may raise `OSError` and `ValueError`, which are logged as refusals.
    """

    def __init__(self, kind: Kind, converse: Callable[[TlsStream, str], Awaitable[None]]) -> None:
        self._kind = kind
        self._converse = converse
        self._log = structlog.get_logger().bind(part=kind.part)
        self._throttle = Throttle(limit=20, window_seconds=10.0)
        self._listener: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._accepting: asyncio.Task[None] | None = None
        # In the order of their arrival.
        self.unproven: dict[asyncio.Task[None], str] = {}
        self._proven: dict[asyncio.Task[None], str] = {}

    @property
    def port(self) -> int | None:
        """Where it listens, if it does."""
        return None if self._listener is None else int(self._listener.getsockname()[1])

    async def start(self, address: Address, context: ssl.SSLContext) -> None:
        """Listen. Raises `BlockpairError`."""
        self._context = context
        self._listener = await _bind(address, self._kind)
        self._accepting = asyncio.create_task(self._accept())

    def set_context(self, context: ssl.SSLContext) -> None:
        """From now on this is the trust: who has not proved anything yet begins anew."""
        self._context = context
        for task in list(self.unproven):
            task.cancel()

    def end(self, which: Callable[[str], bool]) -> None:
        """End the connections that proved to be of such a name, but for that of the running task."""
        for task, name in list(self._proven.items()):
            if which(name) and task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        tasks = [*self.unproven, *self._proven]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._listener is not None:
            self._listener.close()
        self._listener = self._accepting = None

    def prove(self, name: str) -> bool:
        """The connection of the running task is of ``name``; False if that has too many."""
        task = asyncio.current_task()
        assert task is not None
        of_one = [other for other, found in self._proven.items() if found == name]
        if len(of_one) >= self._kind.proven_of_one and self._kind.newest_stays:
            oldest = of_one.pop(0)
            del self._proven[oldest]
            oldest.cancel()
        if len(self._proven) >= self._kind.proven or len(of_one) >= self._kind.proven_of_one:
            return False
        self.unproven.pop(task, None)
        self._proven[task] = name
        return True

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listener is not None
        while True:
            try:
                connection, remote = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self.refused("everybody", "this process has no room for more connections")
                    self._evict()
                    await asyncio.sleep(0.1)
                continue
            who = str(Address(remote[0], remote[1]))
            if len(self.unproven) >= MAX_UNPROVEN:
                self._evict()
            task = asyncio.create_task(self._serve(connection, who))
            self.unproven[task] = who
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.unproven.pop(task, None)
        self._proven.pop(task, None)

    def _evict(self) -> None:
        counts = Counter(map(_host, self.unproven.values()))
        if counts:
            host, _ = counts.most_common(1)[0]
            task = next(task for task, who in self.unproven.items() if _host(who) == host)
            self.refused(self.unproven.pop(task), "too many connections that prove nothing: one goes")
            task.cancel()

    def refused(self, who: str, why: str) -> None:
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
                first = await self._first(connection)
                if not first:
                    # It only looked whether somebody is here.
                    return
                if first[0] != _TLS_HANDSHAKE:
                    await self._answer_plain(connection)
                    self.refused(who, "it does not speak TLS")
                    return
                assert self._context is not None
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = TlsStream(connection, self._context, server_side=True)
                await stream.handshake()
            if stream.protocol() != self._kind.alpn:
                self.refused(who, f"it does not speak the {self._kind.title}'s protocol")
                return
            await self._converse(stream, who)
        except TimeoutError:
            self.refused(who, f"it did not finish a TLS handshake within {HANDSHAKE_SECONDS:g} s")
        except ssl.SSLError as error:
            self.refused(who, explain_refusal(error))
        except OSError as error:
            self.refused(who, f"it hung up: {error.strerror or type(error).__name__}")
        except ValueError as error:
            self.refused(who, str(error))
        finally:
            task = asyncio.current_task()
            # No farewell to who was put out: what it holds is wanted now.
            if stream is not None and (task in self.unproven or task in self._proven):
                await stream.close()
            connection.close()

    async def _first(self, connection: socket.socket) -> bytes:
        """The first byte, without taking it; empty where there will be none."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connection, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)
        return connection.recv(1, socket.MSG_PEEK)

    async def _answer_plain(self, connection: socket.socket) -> None:
        """Who speaks in the clear is told, in the clear."""
        with contextlib.suppress(OSError):
            connection.send(messages.encode_error(None, messages.error_object(self._kind.plain)))
            await part(connection)


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


def full() -> bytes:
    """What is told to a name that has too many connections."""
    error = BlockpairError(ErrorKind.FAILED, "too many connections of this node", "try again in a moment")
    return messages.encode_error(None, messages.error_object(error))


def _host(who: str) -> str:
    return who.rpartition(":")[0]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _bind(address: Address, kind: Kind) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind_, protocol, _, place = found[0]
        listener = socket.socket(family, kind_ | socket.SOCK_NONBLOCK, protocol)
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
            f"the {kind.title} {address} cannot be opened: {error.strerror}",
            kind.unopened,
        ) from None
