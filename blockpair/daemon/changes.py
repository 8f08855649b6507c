"""RPC methods that change something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import structlog

from blockpair.daemon.asker import asked_by, describe_asker
from blockpair.errors import BlockpairError
from blockpair.rpc.server import Caller, Method


def change(name: str, params: type[Any], run: Callable[[Any], Awaitable[Any]]) -> Method:
    """A method of which the log says who asked and how it ended, and the history who asked (`asked_by`).
    Never the parameters, which may hold a token; but the resource they name.
    """

    @wraps(run)
    async def logged(caller: Caller, given: Any) -> Any:
        about = {} if name.startswith("cluster.") else {"resource": getattr(given, "name", None)}
        log = structlog.get_logger().bind(part="rpc", method=name, **about, uid=caller.uid, pid=caller.pid)
        asked_by.set(await asyncio.to_thread(describe_asker, caller.uid, name))
        try:
            result = await run(given)
        except BlockpairError as error:
            log.info("command.refused", kind=error.kind.value, text=error.message, remedy=error.remedy)
            raise
        log.info("command.done")
        return result

    return Method(params, logged)
