"""How a witness comes to serve a cluster: by a token, as a node joins, and without becoming one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import datetime
from typing import Any

import msgspec

from blockpair.arbiter.witness.clusters import Membership
from blockpair.cluster.peers import connect, exchange, explain_tls
from blockpair.cluster.tls import TlsStream
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority as ca
from blockpair.trust import tokens
from blockpair.trust.contexts import joining_context
from blockpair.trust.join import NONCE_BYTES, HelloAnswer, Joiner, WitnessAnswer

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0


async def join(member: Address, token: tokens.Token, now: datetime) -> Membership:
    """What the member whose control port that is issues for ``token``. Raises `BlockpairError`."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            stream = await connect(member, joining_context(), None)
    except TimeoutError:
        raise _no_answer(member, f"no answer within {_CONNECT_SECONDS:g} s") from None
    except OSError as error:
        raise _no_answer(member, explain_tls(error, str(member))) from None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await _ask(stream, token, now)
    except TimeoutError:
        raise _no_answer(member, f"no answer within {_ANSWER_SECONDS:g} s") from None
    except OSError as error:
        raise _no_answer(member, explain_tls(error, str(member))) from None
    finally:
        await stream.close()


async def _ask(stream: TlsStream, token: tokens.Token, now: datetime) -> Membership:
    key = ca.new_key()
    joiner = Joiner(token, ca.WITNESS, key, secrets.token_bytes(NONCE_BYTES))
    leaf = stream.certificate()
    assert leaf is not None  # A TLS server always has one.
    hello = _as(HelloAnswer, await exchange(stream, "join.hello", joiner.hello()))
    try:
        joiner.check(hello, leaf, now)
    except BlockpairError as error:
        # So that the other side's log says what became of it; its answer is worth nothing.
        with contextlib.suppress(BlockpairError, OSError):
            await exchange(stream, "join.abandon", {"reason": error.message[:200]})
        raise
    issued = _as(WitnessAnswer, await exchange(stream, "join.witness", joiner.request_witness()))
    joiner.accept_witness(issued, now)
    return Membership(issued.cluster, issued.name, issued.authority, issued.certificate, key)


def _as(form: type[Any], value: Any) -> Any:
    try:
        return msgspec.convert(value, type=form)
    except msgspec.ValidationError as error:
        raise BlockpairError(
            ErrorKind.MISMATCH,
            f"the member's answer is not understood: {error}",
            "use the same version of blockpair on both machines",
        ) from None


def _no_answer(member: Address, why: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.UNREACHABLE,
        f"{member} cannot be asked: {why}",
        "see that blockpaird runs there as a member of the cluster, and that it is its control port "
        "(`blockpair cluster token` prints it)",
    )
