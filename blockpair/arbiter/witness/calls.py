"""What a node's call to a witness asks for. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from blockpair.arbiter.witness import protocol
from blockpair.arbiter.witness.register import ReadOperation, SwapOperation
from blockpair.config.files import explain
from blockpair.rpc import messages
from blockpair.rpc.messages import Request, RpcError

FORMS: dict[str, type[Any]] = {
    protocol.READ: protocol.ReadParams,
    protocol.SWAP: protocol.SwapParams,
    protocol.REQUEST: protocol.NoParams,
    protocol.TAKE: protocol.TakeParams,
}


def meaning(
    cluster: str, node: str, request: Request
) -> ReadOperation | SwapOperation | protocol.NoParams | protocol.TakeParams:
    """What ``node`` of ``cluster`` asks for: something of the register, or of trust. Raises `RpcError`."""
    form = FORMS.get(request.method)
    if form is None:
        raise RpcError(messages.METHOD_NOT_FOUND, f"there is no method {request.method[:64]!r}")
    try:
        params = msgspec.json.decode(request.params, type=form)
        if isinstance(params, protocol.ReadParams):
            return ReadOperation(cluster, protocol.check_resource(params.resource))
        if isinstance(params, protocol.SwapParams):
            expected, new = protocol.check_swap(params)
            return SwapOperation(cluster, node, params.resource, params.name, expected, new)
    except (ValueError, RecursionError) as error:
        # msgspec's errors are of that kind too.
        key, reason, _ = explain(str(error))
        fault = f"{request.method}: {key or 'params'}: {reason}"
        raise RpcError(messages.INVALID_PARAMS, fault) from None
    found: protocol.NoParams | protocol.TakeParams = params
    return found
