"""What a resource whose arbiter is fencing does beside asking: it remembers that its nodes have met, and
tells the other node when it ends in good order, so that it is not switched off for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from msgspec import Struct

from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Key
from blockpair.cluster.server import PeerMethod
from blockpair.daemon.desired import BootMarker
from blockpair.daemon.judges import Judges
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import EngineStatus

_WORD, _WORD_BACK = "peer.fence.word", "peer.fence.word-back"
# Seconds that an end in good order waits at most: who is not told fences.
CALL_SECONDS = 2.0

Call = Callable[[str, str, Any], Awaitable[Any]]
"""Calls a method of another member within a few seconds; raises `BlockpairError`."""


class WordParams(Struct, forbid_unknown_fields=True):
    """A node is bound in an epoch, or wants to be so no more."""

    resource_id: str
    name: str
    epoch: int = 0


class Fencing:
    """For one resource. ``met``: the marker that its nodes have met in this boot."""

    def __init__(self, name: str, judges: Judges, met: BootMarker, call: Call) -> None:
        self._name = name
        self._judges = judges
        self._met = met
        self._call = call
        self._log = structlog.get_logger().bind(part="fence", resource=name)

    async def seen(self, status: EngineStatus) -> None:
        """To be told of every status. Where the nodes are connected: remember that they have met, once what
        was learned by that is in this node's own record; and take back the word to be left out.
        """
        key, peer = self._key(status), _connected(status)
        arbiter = self._judges.fencing()
        if key is None or peer is None or arbiter is None:
            return
        try:
            if not await asyncio.to_thread(self._met.is_set):
                await arbiter.read(key)
                await asyncio.to_thread(self._met.set)
                self._log.info("peer.met", peer=peer)
            if await arbiter.resigned(key):
                params = WordParams(key.resource_id, key.name)
                await arbiter.withdraw(key, await self._call(peer, _WORD_BACK, params))
        except (ArbiterRefused, ArbiterUnreachable, BlockpairError) as error:
            # Until then nobody is fenced, or this node takes over from nobody; the next status tries again.
            self._log.warning("fence.not-settled", peer=peer, text=str(error))

    async def leaving(self, status: EngineStatus) -> None:
        """The engine is about to end in good order: have the other node know that it need not be fenced."""
        key, peer = self._key(status), _connected(status)
        arbiter = self._judges.fencing()
        if key is None or peer is None or arbiter is None:
            return
        try:
            epoch = await arbiter.resign(key)
            if epoch is not None:
                await self._call(peer, _WORD, WordParams(key.resource_id, key.name, epoch))
        except (ArbiterRefused, BlockpairError) as error:
            self._log.warning("fence.not-told", peer=peer, text=str(error))

    def _key(self, status: EngineStatus) -> Key | None:
        if status.resource_id is None:
            return None
        return Key(self._judges.cluster_id, status.resource_id, self._name)


def _connected(status: EngineStatus) -> str | None:
    if status.state != "running":
        return None
    return next((peer.name for peer in status.peers if peer.connection == "Connected"), None)


def word_methods(judges: Judges) -> dict[str, PeerMethod]:
    """What the other members may tell this one of themselves."""

    async def word(caller: str, params: WordParams) -> Any:
        arbiter = judges.fencing()
        if arbiter is not None:
            arbiter.hear(Key(judges.cluster_id, params.resource_id, params.name), caller, params.epoch)

    async def word_back(caller: str, params: WordParams) -> Any:
        arbiter = judges.fencing()
        if arbiter is None:
            raise BlockpairError(
                ErrorKind.FAILED, "the arbiter is not fencing here", "compare `blockpair config show`"
            )
        try:
            key = Key(judges.cluster_id, params.resource_id, params.name)
            return await arbiter.forget(key, caller)
        except ArbiterRefused as error:
            raise BlockpairError(ErrorKind.BUSY, str(error), "it is asked again by itself") from None

    return {_WORD: PeerMethod(WordParams, word), _WORD_BACK: PeerMethod(WordParams, word_back)}
