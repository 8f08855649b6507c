"""A node's side of its witness: one connection for all its resources."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from typing import Any

import msgspec
import structlog

from blockpair.arbiter.interface import (
    ArbiterKind,
    ArbiterRefused,
    ArbiterUnreachable,
    Configuration,
    Key,
    configuration,
)
from blockpair.arbiter.witness import protocol
from blockpair.arbiter.witness.trust import REJOIN, Identity, NodeTrust
from blockpair.cluster.peers import distrusts, explain_tls
from blockpair.cluster.tls import TlsStream, dial
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.trust.contexts import WITNESS_ALPN

CALL_SECONDS = 2.0
CONNECT_SECONDS = 2.0
# After a failure, whoever asks so soon is told of that one: many resources are not as many attempts.
_AGAIN_SECONDS = 0.1
# So often at most it is looked whether this node's trust was changed since the connection was made.
_TRUST_SECONDS = 1.0
# After so long a connection is made anew, and both certificates are looked at: they live for a year.
_LINK_SECONDS = 86400.0
# Of these a witness recovers by itself.
_PASSING = frozenset({ErrorKind.IO, ErrorKind.BUSY, ErrorKind.INTERNAL, ErrorKind.TIMEOUT})


class WitnessArbiter:
    """The witness at ``address``, for all resources of the node whose trust is ``trust``. For one event loop.

    A call takes ``call_seconds`` at most, connecting included.
    """

    def __init__(self, address: Address, trust: NodeTrust, *, call_seconds: float = CALL_SECONDS) -> None:
        self._address = address
        self._trust = trust
        self._call_seconds = call_seconds
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._failure: tuple[float, Exception] | None = None
        self._looked = float("-inf")
        self._log = structlog.get_logger().bind(part="arbiter", kind="witness", address=str(address))

    @property
    def kind(self) -> ArbiterKind:
        """For status."""
        return "witness"

    async def read(self, key: Key) -> Configuration | None:
        """See `Arbiter`."""
        self._check(key)
        return self._configuration(await self._call(protocol.READ, protocol.ReadParams(key.resource_id)))

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """See `Arbiter`."""
        self._check(key)
        told = None if expected is None else expected.document()
        params = protocol.SwapParams(key.resource_id, key.name, told, new.document())
        answer = await self._call(protocol.SWAP, params)
        if not isinstance(answer, bool):
            raise ArbiterUnreachable(self._say("its answer is not understood"))
        return answer

    async def close(self) -> None:
        """See `Arbiter`."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._link is not None:
            await self._link.close()
        retiring = list(self._retiring)
        for task in retiring:
            task.cancel()
        if retiring:
            await asyncio.wait(retiring)
        self._connecting = self._link = None

    # -- Calls

    def _check(self, key: Key) -> None:
        if key.cluster != self._trust.cluster:
            raise ArbiterRefused(
                f"the resource {key.name} is of another cluster than this node's: {key.cluster}"
            )

    def _configuration(self, answer: Any) -> Configuration | None:
        if answer is None:
            return None
        try:
            return configuration(answer)
        except ValueError as error:
            raise ArbiterUnreachable(self._say(f"its answer is not understood: {error}")) from None

    async def _call(self, method: str, params: Any) -> Any:
        link = None
        try:
            async with asyncio.timeout(self._call_seconds):
                link = await self._connected()
                return await link.call(method, params)
        except TimeoutError:
            if link is not None and link.silent_for(self._call_seconds):
                # What is in between may have forgotten the connection: the next call begins anew.
                link.give_up()
            raise ArbiterUnreachable(self._say(f"no answer within {self._call_seconds:g} s")) from None
        except OSError as error:
            raise ArbiterUnreachable(self._say(explain_tls(error, "the witness"))) from None
        except BlockpairError as error:
            kind = ArbiterUnreachable if error.kind in _PASSING else ArbiterRefused
            raise kind(self._say(error.message, error.remedy)) from None

    def _say(self, why: str, remedy: str = "") -> str:
        return f"the witness {self._address}: {why}" + (f" (remedy: {remedy})" if remedy else "")

    # -- The connection

    async def _connected(self) -> _Link:
        """The connection, made where there is none; all who wait for it wait for the same attempt. Raises
        `OSError`, `BlockpairError`.
        """
        now = asyncio.get_running_loop().time()
        if self._link is not None and self._link.alive:
            if now - self._looked < _TRUST_SECONDS:
                return self._link
            self._looked = now
            if await self._current(self._link):
                return self._link
            # Whoever was removed is heard by the witness until it is told.
        if self._connecting is None:
            if self._failure is not None and now - self._failure[0] < _AGAIN_SECONDS:
                raise self._failure[1]
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._end_attempt)
        return await asyncio.shield(self._connecting)

    async def _current(self, link: _Link) -> bool:
        """Whether a connection is of the trust that counts, and not too old. Raises `BlockpairError`."""
        return link.age < _LINK_SECONDS and await asyncio.to_thread(self._trust.version) == link.version

    def _end_attempt(self, attempt: asyncio.Task[_Link]) -> None:
        self._connecting = self._failure = None
        if attempt.cancelled():
            return
        error = attempt.exception()
        if isinstance(error, Exception):
            self._failure = asyncio.get_running_loop().time(), error

    async def _connect(self) -> _Link:
        identity = await asyncio.to_thread(self._trust.identity)
        try:
            link = await self._dial(identity)
        except OSError as error:
            if not distrusts(error):
                raise _explained(error) from None
            await self._catch_up(error)
            link = await self._dial(identity)
        if await asyncio.to_thread(self._trust.met, link.certificate):
            with contextlib.suppress(BlockpairError, OSError):
                await self._hand_over(link)
        if self._link is not None:
            # What was asked on the old one may still be answered.
            retiring = asyncio.create_task(self._link.retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        self._link = link
        return link

    async def _dial(self, identity: Identity) -> _Link:
        """Raises `OSError`."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                stream = TlsStream(
                    await dial(self._address), identity.context, server_side=False, name=self._trust.witness
                )
                try:
                    await stream.handshake()
                    if stream.protocol() != WITNESS_ALPN:
                        raise ConnectionError(
                            "what answers there is no witness of blockpair (check the port)"
                        )
                    stream.keep_alive()
                except BaseException:
                    await stream.close()
                    raise
                link = _Link(stream, identity.version)
                try:
                    # In TLS 1.3 a server refuses a certificate after the handshake: the first answer tells.
                    await link.call(protocol.READ, protocol.ReadParams("0" * 32))
                except BaseException:
                    await link.close()
                    raise
                return link
        except TimeoutError:
            raise ConnectionError(f"no connection within {CONNECT_SECONDS:g} s") from None

    async def _catch_up(self, why: OSError) -> None:
        """Have a witness that has missed changes of the authority take up the one that counts. Raises
        `BlockpairError`.
        """
        for identity in await asyncio.to_thread(self._trust.former):
            try:
                link = await self._dial(identity)
            except OSError:
                continue
            try:
                await self._hand_over(link)
            except OSError:
                # It ends connections of the old authority, once it has the new one.
                pass
            finally:
                await link.close()
            self._log.info("witness.authority-handed-over")
            return
        raise BlockpairError(ErrorKind.UNSAFE, explain_tls(why, "the witness"), REJOIN)

    async def _hand_over(self, link: _Link) -> None:
        """Raises `OSError`, `BlockpairError`."""
        async with asyncio.timeout(CONNECT_SECONDS):
            request = await link.call(protocol.REQUEST, protocol.NoParams())
            await link.call(protocol.TAKE, await asyncio.to_thread(self._trust.hand_over, str(request)))


class _Link:
    """A connection on which both sides have proved themselves; calls overlap."""

    def __init__(self, stream: TlsStream, version: str | None) -> None:
        self._stream = stream
        self.version = version
        certificate = stream.certificate()
        assert certificate is not None  # A TLS server always has one.
        self.certificate = certificate
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._made = self._heard = self._loop.time()
        self._idle = asyncio.Event()
        self._idle.set()
        self._reader = asyncio.create_task(self._read())
        self._unsent: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""
        return not self._reader.done()

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return self._loop.time() - self._made

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing came for so long."""
        return self._loop.time() - self._heard >= seconds

    async def call(self, method: str, params: Any) -> Any:
        """Raises `BlockpairError`, which the witness answered, and `OSError`."""
        if not self.alive:
            raise ConnectionError("the connection ended")
        number = next(self._numbers)
        self._idle.clear()
        future = self._calls[number] = self._loop.create_future()
        try:
            self._send(messages.encode_request(number, method, params))
            return await future
        finally:
            del self._calls[number]
            if not self._calls:
                self._idle.set()

    def give_up(self) -> None:
        """End it; calls that wait get an `OSError`."""
        self._reader.cancel()

    async def retire(self) -> None:
        """Close it when the calls that wait have ended; all have a time-out."""
        try:
            await self._idle.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Idempotent."""
        self._reader.cancel()
        await asyncio.wait({self._reader})
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})
        await self._stream.close()

    def _send(self, line: bytes) -> None:
        """What is to be sent while something is being sent goes together afterwards."""
        self._unsent.append(line)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._unsent:
                lines, self._unsent = self._unsent, []
                await self._stream.write(b"".join(lines))
        except OSError:
            # The reader meets the same, and knows more: an alert may say why.
            pass

    async def _read(self) -> None:
        failure: Exception = ConnectionError("it closed the connection without an answer")
        try:
            while (line := await self._stream.read_line(messages.MAX_RESPONSE_BYTES)) is not None:
                self._heard = self._loop.time()
                self._settle(messages.decode_response(line))
        except OSError as error:
            failure = error
        except ValueError as error:
            failure = ConnectionError(f"its answer is not understood: {error}")
        finally:
            for future in self._calls.values():
                if not future.done():
                    future.set_exception(failure)

    def _settle(self, response: messages.Response) -> None:
        if response.id is None and not isinstance(response.error, msgspec.UnsetType):
            # Not of one call: why the connection is refused.
            raise ConnectionError(messages.error_from(response.error).message)
        future = self._calls.get(response.id) if isinstance(response.id, int) else None
        if future is None or future.done():
            # The caller waits no longer.
            return
        if not isinstance(response.error, msgspec.UnsetType):
            future.set_exception(messages.error_from(response.error))
        elif not isinstance(response.result, msgspec.UnsetType):
            future.set_result(msgspec.json.decode(response.result))


def _explained(error: OSError) -> Exception:
    """An alert that a person must act on, as such."""
    if isinstance(error, ssl.SSLError) and "UNRECOGNIZED_NAME" in (error.reason or ""):
        return BlockpairError(
            ErrorKind.NOT_FOUND,
            "it does not serve this cluster",
            "`blockpair cluster token` here, then `blockpair witness join` on its machine",
        )
    return error
