"""The control port: calls from other members, and from nodes that want to join."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from blockpair.cluster.door import Door, Kind, full
from blockpair.cluster.tls import TlsStream
from blockpair.config.files import explain
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.rpc.messages import ErrorObject, Id, Request, RpcError
from blockpair.trust.authority import certified_name
from blockpair.trust.contexts import ALPN

MAX_LINE_BYTES = 1 << 20
MAX_GUEST_LINE_BYTES = 64 << 10
# Hello, request and perhaps a word of farewell.
MAX_GUEST_CALLS = 4
GUEST_SECONDS = 30.0
IDLE_SECONDS = 60.0
_LAST_ANSWER_SECONDS = 1.0
_KIND = Kind(
    part="control",
    alpn=ALPN,
    title="control port",
    plain=BlockpairError(
        ErrorKind.FAILED,
        "this is a control port of blockpair: it speaks TLS 1.3 to members of its cluster alone",
        "to join the cluster: `blockpair cluster join`",
    ),
    unopened="free that port, or set another one as control in [node] of blockpair.toml",
)


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
        self._log = structlog.get_logger().bind(part=_KIND.part)
        self._door = Door(_KIND, self._converse)
        self._generation = 0

    @property
    def port(self) -> int | None:
        """Where it listens, if it does."""
        return self._door.port

    async def start(self, address: Address, context: ssl.SSLContext) -> None:
        """Listen. Raises `BlockpairError`."""
        await self._door.start(address, context)

    def set_context(self, context: ssl.SSLContext) -> None:
        """From now on this is the trust: a connection of the old one ends after the call it is in."""
        self._generation += 1
        self._door.set_context(context)

    async def close(self) -> None:
        """Stop listening and end every connection; a call that has begun is finished first."""
        await self._door.close()

    async def _converse(self, stream: TlsStream, who: str) -> None:
        certificate = stream.certificate()
        if certificate is None:
            try:
                async with asyncio.timeout(GUEST_SECONDS):
                    await self._serve_guest(stream, who)
            except TimeoutError:
                self._door.refused(who, f"it was not done within {GUEST_SECONDS:g} s")
            return
        # Raises `TrustError`, a `ValueError`.
        name = certified_name(certificate)
        if not self._door.prove(name):
            self._door.refused(who, f"{name} has too many connections")
            await stream.write(full())
            return
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
            self._door.refused(who, str(error))
            return messages.encode_error(call_id, ErrorObject(error.code, str(error)))
        except BlockpairError as error:
            self._door.refused(who, f"{method_name}: {error.message}")
            return messages.encode_error(call_id, messages.error_object(error))
        except Exception as error:
            self._log.exception("peer.crash", remote=who, method=method_name)
            internal = BlockpairError(
                ErrorKind.INTERNAL,
                f"blockpaird met an error it did not expect: {type(error).__name__}",
                "the details are in the log of that node; please report them",
            )
            return messages.encode_error(call_id, messages.error_object(internal))
