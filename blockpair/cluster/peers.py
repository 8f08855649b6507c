"""Calls to other members: JSON-RPC, a line a message, over TLS 1.3 with certificates of the cluster."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from blockpair.cluster.tls import TlsStream, dial
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.trust.contexts import ALPN

# What an address that does not answer may take from a call that has others to try.
_LEAST_ATTEMPT_SECONDS = 1.0
# A call may wait for minutes of another node's work, and not for one that has lost its power.
_LOST_SECONDS = 12
# OpenSSL's numbers: a certificate of the right authority, and still not the right one.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME = 9, 10, 62
_IDS = itertools.count(1)


class NotTrusted(BlockpairError):
    """A member answers, and the two nodes do not go by the same authority."""


class NoAnswer(BlockpairError):
    """A member was reached, and gave no answer in time: whether it did what it was asked is not known."""


class Peers:
    """Calls members by name. ``addresses`` gives where a member's control port is, the preferred one first,
    and raises `BlockpairError` for who is none; ``context`` the client's side of the present trust.
    """

    def __init__(
        self, addresses: Callable[[str], Sequence[Address]], context: Callable[[], ssl.SSLContext]
    ) -> None:
        self._addresses = addresses
        self._context = context

    async def call(
        self,
        node: str,
        method: str,
        params: Any,
        *,
        timeout: float,  # noqa: ASYNC109 - one budget over several attempts, and told in the error
    ) -> Any:
        """What ``node`` answers to ``method``, as JSON values, within ``timeout`` seconds. Raises
        `BlockpairError`: of kind unreachable if it gives no answer (also `NotTrusted`), else the node's own.
        """
        return await call_at(self._addresses(node), node, self._context(), method, params, timeout=timeout)


async def call_at(
    addresses: Sequence[Address],
    node: str,
    context: ssl.SSLContext,
    method: str,
    params: Any,
    *,
    timeout: float,  # noqa: ASYNC109 - as above
) -> Any:
    """Like `Peers.call`, where the addresses and the trust are not those of the present membership."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    failures: list[str] = []
    distrusted = False
    for index, address in enumerate(addresses):
        left = deadline - loop.time()
        share = max(left / (len(addresses) - index), min(_LEAST_ATTEMPT_SECONDS, left))
        try:
            async with asyncio.timeout(share):
                stream = await connect(address, context, node)
        except TimeoutError:
            failures.append(f"{address}: no answer within {share:.1f} s")
            continue
        except OSError as error:
            failures.append(f"{address}: {explain_tls(error, node)}")
            distrusted |= distrusts(error)
            continue
        try:
            stream.keep_alive(_LOST_SECONDS)
            async with asyncio.timeout_at(deadline):
                return await exchange(stream, method, params)
        except TimeoutError:
            # It may have been done: another address would do it again.
            why = f"{address}: no answer to {method} within {timeout:g} s"
            raise _unreachable(node, why, NoAnswer) from None
        except OSError as error:
            why = f"{address}: {explain_tls(error, node)}"
            kind = NotTrusted if distrusts(error) else BlockpairError
            raise _unreachable(node, why, kind) from None
        finally:
            await stream.close()
    why = "; ".join(failures) or "it has no address"
    raise _unreachable(node, why, NotTrusted if distrusted else BlockpairError)


async def connect(address: Address, context: ssl.SSLContext, node: str | None) -> TlsStream:
    """A connection on which the other side has proved to be ``node`` (None: nothing is proved). Raises
    `OSError`.
    """
    stream = TlsStream(await dial(address), context, server_side=False, name=node)
    try:
        await stream.handshake()
        if stream.protocol() != ALPN:
            raise ConnectionError("what answers there is no control port of blockpair (check the port)")
    except BaseException:
        await stream.close()
        raise
    return stream


async def exchange(stream: TlsStream, method: str, params: Any) -> Any:
    """One call on a connection. Raises `BlockpairError`, which the other side answered, or `OSError`."""
    call_id = next(_IDS)
    await stream.write(messages.encode_request(call_id, method, params))
    try:
        line = await stream.read_line(messages.MAX_RESPONSE_BYTES)
        if line is None:
            raise ConnectionError("it closed the connection without an answer")
        response = messages.decode_response(line)
    except ssl.SSLError:
        raise
    except ValueError as error:
        raise ConnectionError(f"its answer is not understood: {error}") from None
    if not isinstance(response.error, msgspec.UnsetType):
        raise _error_of(response.error)
    if response.id != call_id or isinstance(response.result, msgspec.UnsetType):
        raise ConnectionError("it answers something else than what was asked")
    return msgspec.json.decode(response.result)


def _error_of(answer: messages.ErrorObject) -> BlockpairError:
    """What the other side answered; codes of JSON-RPC itself mean that the two versions do not fit."""
    if answer.data is not None:
        return messages.error_from(answer)
    return BlockpairError(
        ErrorKind.FAILED,
        f"the other node did not understand what it was asked: {answer.message}",
        "use the same version of blockpair on all nodes (`blockpair --version`); after an update, restart "
        "blockpaird",
    )


# The alerts by which the other side refuses this node's certificate.
_REFUSED = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_REQUIRED", "CERTIFICATE_UNKNOWN", "ACCESS_DENIED")


def distrusts(error: OSError) -> bool:
    """Whether a connection failed because the two ends do not go by the same authority."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_code not in (_NOT_YET_VALID, _EXPIRED, _OTHER_NAME)
    return isinstance(error, ssl.SSLError) and any(alert in (error.reason or "") for alert in _REFUSED)


def explain_tls(error: OSError, node: str) -> str:
    """Why a connection to ``node`` failed, in a person's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _OTHER_NAME:
            return f"what answers there has the certificate of another node, not of {node}"
        why = error.verify_message.rstrip(".")
        return (
            f"what answers there has no valid certificate of this cluster ({why}): one of the two nodes was "
            "removed from the cluster, or missed the change of its authority"
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "EXPIRED" in reason:
            return f"{node} finds this node's certificate expired (are both clocks right?)"
        if any(alert in reason for alert in _REFUSED):
            return (
                f"{node} does not accept this node's certificate: this node was removed from the cluster, or "
                "missed the change of its authority"
            )
        words = reason.replace("_", " ").lower() or str(error)
        return f"no TLS 1.3 with a control port of blockpair there ({words})"
    # asyncio puts words of its own, and the address again, in the place of the system's.
    number = error.errno or 0
    return (os.strerror(number) if number > 0 else error.strerror) or str(error) or type(error).__name__


def _unreachable(node: str, why: str, kind: type[BlockpairError] = BlockpairError) -> BlockpairError:
    return kind(
        ErrorKind.UNREACHABLE,
        f"{node} cannot be reached: {why}",
        f"see that blockpaird runs on {node} and that the network lets its control port through; "
        "`blockpair cluster status` shows all members",
    )
