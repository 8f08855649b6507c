"""Calls of etcd's JSON gateway: several endpoints, TLS with a certificate of this node's, bounded in time.

h11 and not a client of etcd: etcd3gw knows one endpoint, blocks its thread and brings `requests`; those on
gRPC bring a compiled library of many megabytes for two calls. httpcore does not say as surely whether a
request was sent, and was the slowest part by far when hundreds asked at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from blockpair.arbiter.etcd.connection import AnswerError, Connection
from blockpair.arbiter.etcd.messages import failure
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable
from blockpair.config.names import Address, check_host

MAX_ENDPOINTS = 9
_CONNECTIONS = 32
# A member keeps what was asked of it; a node asks for a few seconds, then for weeks nothing.
_KEPT_SECONDS = 20.0


@dataclass(frozen=True)
class Credentials:
    """Files in PEM: the authority of etcd's certificates, and this node's own certificate with its key."""

    ca: Path
    cert: Path
    key: Path


def check_endpoint(text: str) -> Address:
    """The member's address, if ``text`` is an endpoint: ``https://HOST:PORT``. Raises `ValueError` that
    states the rule.
    """
    try:
        parts = urlsplit(text)
        address = Address(check_host(parts.hostname or ""), parts.port or 0)
    except ValueError as error:
        raise ValueError(f"{text!r:.80} is not an endpoint: {error}") from None
    if not address.port or text != f"https://{address}":
        raise ValueError(f"{text!r:.80} is not an endpoint: write it as https://10.0.0.5:2379")
    return address


class _Fault(Exception):
    """One endpoint did not answer. ``sent``: the request may have reached it all the same."""

    def __init__(self, reason: str, *, sent: bool, certificate: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.certificate = certificate


@dataclass(frozen=True)
class _Kept:
    connection: Connection
    context: ssl.SSLContext
    until: float


class Gateway:
    """The members of one etcd cluster.

    Who answered last is asked first, so a member that hangs costs one attempt, not one a call. An attempt has
    its share of a call's ``timeout`` (seconds): with three endpoints, a third.
    """

    def __init__(self, endpoints: Sequence[str], credentials: Credentials, timeout: float) -> None:
        if not 1 <= len(endpoints) <= MAX_ENDPOINTS:
            raise ValueError(f"etcd has 1 to {MAX_ENDPOINTS} endpoints, not {len(endpoints)}")
        self._endpoints = [check_endpoint(endpoint) for endpoint in endpoints]
        self._credentials = credentials
        self._share = timeout / len(endpoints)
        self._first = 0
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self._kept: dict[Address, list[_Kept]] = {}
        self._context: ssl.SSLContext | None = None
        self._stamps: tuple[tuple[int, int, int], ...] = ()

    async def call(
        self, path: str, request: Mapping[str, object], *, deadline: float, repeatable: bool
    ) -> object:
        """The JSON of the first answer, by ``deadline`` (the loop's time).

        What is not ``repeatable`` is given to another endpoint only if it certainly reached none. Raises
        `ArbiterUnreachable`, `ArbiterRefused`.
        """
        loop = asyncio.get_running_loop()
        body = json.dumps(request).encode()
        faults: dict[Address, _Fault] = {}
        unknown = False
        count = len(self._endpoints)
        for at in [(self._first + step) % count for step in range(count)]:
            endpoint = self._endpoints[at]
            try:
                async with asyncio.timeout_at(deadline), self._free:
                    seconds = min(self._share, deadline - loop.time())
                    answer = await self._attempt(endpoint, path, body, seconds)
            except TimeoutError:
                unknown = True
                break
            except _Fault as fault:
                faults[endpoint] = fault
                self._first = (at + 1) % count
                if fault.sent and not repeatable:
                    unknown = not fault.certificate
                    break
            else:
                self._first = at
                return answer
        told = "; ".join(f"{endpoint}: {fault.reason}" for endpoint, fault in faults.items())
        # A server that does not trust this node may close so quickly that its reason is lost: one that tells
        # it speaks for all.
        if not unknown and any(fault.certificate for fault in faults.values()):
            raise ArbiterRefused(
                f"no etcd endpoint has or takes the certificate that was expected ({told}); remedy: see that "
                f"ca, cert and key under [arbiter] are those of this etcd: {self._credentials.ca}, "
                f"{self._credentials.cert}, {self._credentials.key}"
            )
        raise ArbiterUnreachable(f"etcd did not answer: {told or 'no time was left'}")

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        kept, self._kept = self._kept, {}
        await asyncio.gather(*(each.connection.close() for some in kept.values() for each in some))

    async def _attempt(self, endpoint: Address, path: str, body: bytes, seconds: float) -> object:
        context = self._trusted()
        sent = False
        connection: Connection | None = None
        try:
            async with asyncio.timeout(seconds):
                connection = self._taken(endpoint, context)
                if connection is None:
                    connection = await Connection.open(endpoint.host, endpoint.port, context)
                sent = True
                status, answer = await connection.post(path, body)
        except TimeoutError:
            raise _Fault(f"no answer within {seconds:.2g} s", sent=sent) from None
        except OSError as error:
            raise _Fault(_words(error), sent=sent, certificate=_is_certificate(error)) from None
        except AnswerError as error:
            raise _Fault(str(error), sent=True) from None
        else:
            if connection.usable:
                until = asyncio.get_running_loop().time() + _KEPT_SECONDS
                self._kept.setdefault(endpoint, []).append(_Kept(connection, context, until))
                connection = None
        finally:
            if connection is not None:
                connection.end()
        return _document(endpoint, status, answer)

    def _taken(self, endpoint: Address, context: ssl.SSLContext) -> Connection | None:
        """A connection that was kept and is as good as a new one. Ends those that are not."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(endpoint, [])
        while kept:
            found = kept.pop()
            if found.context is context and now < found.until and found.connection.usable:
                return found.connection
            found.connection.end()
        return None

    def _trusted(self) -> ssl.SSLContext:
        """With the certificates as they are on the disk now: who renews them restarts nothing."""
        files = (self._credentials.ca, self._credentials.cert, self._credentials.key)
        try:
            stamps = tuple(_stamp(file) for file in files)
            if self._context is None or stamps != self._stamps:
                self._context = _context(self._credentials)
                self._stamps = stamps
        except OSError as error:
            name = error.filename or f"{files[0]}, {files[1]} or {files[2]}"
            raise ArbiterRefused(
                f"the certificate for etcd cannot be used: {name}: {error.strerror or error}; remedy: "
                "correct ca, cert and key under [arbiter], which name files in PEM on each node"
            ) from None
        return self._context


def _document(endpoint: Address, status: int, answer: bytes) -> object:
    if status != 200:
        failed = failure(status, answer)
        if failed.final:
            raise ArbiterRefused(
                f"etcd at {endpoint} refuses: {failed.reason}; remedy: see that it is etcd 3.4 or newer with "
                "its JSON gateway, has space, and lets this certificate in without a user and password"
            )
        raise _Fault(failed.reason, sent=True)
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise _Fault("it answered what is not JSON", sent=True) from None


def _stamp(file: Path) -> tuple[int, int, int]:
    found = os.stat(file)  # noqa: PTH116 - the file's name stays in the error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=credentials.ca)
    context.load_cert_chain(credentials.cert, credentials.key)
    return context


def _is_certificate(error: OSError) -> bool:
    """Whether this side did not trust the other's certificate, or was told that its own is not trusted."""
    text = str(error).upper()
    return isinstance(error, ssl.SSLError) and ("CERTIFICATE" in text or "UNKNOWN_CA" in text)


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return error.strerror or str(error) or type(error).__name__
