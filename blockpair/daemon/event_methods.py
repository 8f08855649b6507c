"""The daemon's methods about what happened on the node: events, and their deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig, read_node
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.events import query
from blockpair.events.event import Filter, Severity
from blockpair.events.post import targets, try_all
from blockpair.events.stream import Stream
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method

_LONGEST_WAIT = 60.0


class EventsParams(Struct, forbid_unknown_fields=True):
    """``after``: those that follow this number, and if there are none, for ``wait_seconds`` the first that
    comes; null: the newest ``limit``, none before the time ``since`` (RFC 3339, UTC).
    """

    after: int | None = None
    since: str | None = None
    resource: str | None = None
    severity: Severity = "info"
    kinds: list[str] = field(default_factory=lambda: ["*"])
    limit: int = 50
    wait_seconds: float = 0.0


class EventMethods:
    """The table of them."""

    def __init__(self, node: NodeConfig, places: Locations, stream: Stream) -> None:
        self._node = node
        self._places = places
        self._stream = stream

    def table(self) -> dict[str, Method]:
        """Every method by its name."""
        return {
            "events.read": Method(EventsParams, self._read, interruptible=True, read_only=True),
            # It runs programs, and sends what others receive.
            "notify.test": Method(NoParams, self._test),
        }

    async def _read(self, caller: Caller, params: EventsParams) -> query.Answer:
        most = min(max(1, params.limit), query.MOST)
        chosen = Filter(params.severity, tuple(params.kinds), params.resource)
        after = params.after
        if after is None:
            return await self._answer(lambda: query.newest(self._stream.folder, chosen, params.since, most))
        came = asyncio.Event()
        loop = asyncio.get_running_loop()
        end = self._stream.on_stable(lambda: loop.call_soon_threadsafe(came.set))
        try:
            deadline = loop.time() + min(max(0.0, params.wait_seconds), _LONGEST_WAIT)
            while True:
                came.clear()
                begin = after
                found = await self._answer(
                    lambda begin=begin: query.following(self._stream.folder, chosen, begin, most)  # type: ignore[misc]
                )
                if found.events or loop.time() >= deadline:
                    return found
                after = found.last
                try:
                    async with asyncio.timeout_at(deadline):
                        await came.wait()
                except TimeoutError:
                    return found
        finally:
            end()

    async def _answer(self, look: Callable[[], query.Answer]) -> query.Answer:
        try:
            return await asyncio.to_thread(look)
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO,
                f"{error.filename} cannot be read: {error.strerror}",
                "see what is wrong with that disk",
            ) from None

    async def _test(self, caller: Caller, _: NoParams) -> Any:
        # As it is in the file now: one who sets it up tries it before the daemon is restarted with it.
        fresh = await asyncio.to_thread(read_node, self._places.node_file)
        chosen = targets(fresh.notify, self._places.hooks)
        tried = await asyncio.to_thread(try_all, chosen, self._node.name)
        return {"targets": tried, "in_effect": fresh.notify == self._node.notify}
