"""What a member sees to by itself: joins and changes of the authority that were cut off, what could not be
taken up, and renewal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from blockpair.cluster.cluster import Cluster
from blockpair.cluster.membership import Membership
from blockpair.cluster.rekey import Rekey
from blockpair.errors import BlockpairError

_CUT_OFF_SECONDS = 2.0
_RENEWAL_SECONDS = 3600.0


class Care:
    """Looks after one node's membership, until cancelled."""

    def __init__(self, cluster: Cluster, membership: Membership, rekey: Rekey) -> None:
        self._cluster = cluster
        self._membership = membership
        self._rekey = rekey
        self._told: dict[str, str] = {}
        self._log = structlog.get_logger().bind(part="cluster")

    async def run(self) -> None:
        """Never returns."""
        loop = asyncio.get_running_loop()
        renewed = float("-inf")
        while True:
            await self._try("cluster", self._cluster.recover)
            await self._try("join", self._membership.confirm)
            await self._try("authority", self._rekey.resolve)
            if loop.time() - renewed >= _RENEWAL_SECONDS:
                renewed = loop.time()
                await self._try("renewal", self._rekey.renew_if_due)
            await asyncio.sleep(_CUT_OFF_SECONDS)

    async def _try(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BlockpairError as error:
            # It is tried again and again; it is told when it changes.
            if self._told.get(what) != error.message:
                self._log.warning(f"cluster.{what}-waits", text=error.message, remedy=error.remedy)
            self._told[what] = error.message
        except Exception:
            # This watches over everything: it must not end for the sake of one thing.
            self._log.exception(f"cluster.{what}-failed")
        else:
            self._told.pop(what, None)
