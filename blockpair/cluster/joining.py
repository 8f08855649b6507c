"""How whoever joins speaks to a member, to become a node or a witness: dialled without a certificate, and
believed only after it has proved that it knows the token.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from blockpair.cluster.peers import connect, exchange, explain_tls
from blockpair.cluster.tls import TlsStream
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust.contexts import joining_context
from blockpair.trust.join import HelloAnswer, Joiner

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0


@contextlib.asynccontextmanager
async def conversation(member: Address) -> AsyncIterator[TlsStream]:
    """A connection to the member whose control port that is, for as long as a joining takes. Raises
    `BlockpairError` where it cannot be made or does not answer in time.
    """
    async with _answers(member, _CONNECT_SECONDS):
        stream = await connect(member, joining_context(), None)
    try:
        async with _answers(member, _ANSWER_SECONDS):
            yield stream
    finally:
        await stream.close()


async def greet(stream: TlsStream, joiner: Joiner, now: datetime, *, both: str) -> bytes:
    """Have the member prove itself; its certificate. ``both``: what the two ends are, for people. Raises
    `BlockpairError`.
    """
    leaf = stream.certificate()
    assert leaf is not None  # A TLS server always has one.
    answer = understood(HelloAnswer, await exchange(stream, "join.hello", joiner.hello()), both=both)
    try:
        joiner.check(answer, leaf, now)
    except BlockpairError as error:
        # So that the other side's log says what became of it; its answer is worth nothing.
        with contextlib.suppress(BlockpairError, OSError):
            await exchange(stream, "join.abandon", {"reason": error.message[:200]})
        raise
    return leaf


def understood(form: type[Any], value: Any, *, both: str) -> Any:
    """A member's answer, as ``form``. Raises `BlockpairError`."""
    try:
        return msgspec.convert(value, type=form)
    except msgspec.ValidationError as error:
        raise BlockpairError(
            ErrorKind.MISMATCH,
            f"the member's answer is not understood: {error}",
            f"use the same version of blockpair on both {both}",
        ) from None


@contextlib.asynccontextmanager
async def _answers(member: Address, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise _no_answer(member, f"no answer within {seconds:g} s") from None
    except OSError as error:
        raise _no_answer(member, explain_tls(error, str(member))) from None


def _no_answer(member: Address, why: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.UNREACHABLE,
        f"{member} cannot be asked: {why}",
        "see that blockpaird runs there as a member of the cluster, and that it is its control port "
        "(`blockpair cluster token` prints it)",
    )
