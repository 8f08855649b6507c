"""What the daemon tells is recorded, and delivered, from its start to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog

from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig
from blockpair.events.event import Severity
from blockpair.events.post import Post, targets
from blockpair.events.stream import Stream
from blockpair.service import logs


@asynccontextmanager
async def recording(node: NodeConfig, places: Locations) -> AsyncIterator[Stream]:
    """The stream and its deliveries. At the end what waits is written; what was not delivered is by the next
    daemon.
    """
    stream = Stream(places.events, node.name)
    post = Post(targets(node.notify, places.hooks), stream, places.deliveries, tell)

    def start() -> None:
        stream.start()
        post.start()

    def close() -> None:
        post.close()
        stream.close()

    with logs.heard(stream.take):
        await asyncio.to_thread(start)
        try:
            yield stream
        finally:
            await asyncio.to_thread(close)


def tell(severity: Severity, what: str, text: str, /, **fields: object) -> None:
    """Log, and by that record, an event about the deliveries."""
    log = structlog.get_logger().bind(part="notify")
    say: Callable[..., Any] = {"info": log.info, "warning": log.warning, "error": log.error}[severity]
    say(what, text=text, **fields)
