"""What a resource whose arbiter is fencing does beside asking: its two nodes keep each other's records up to
date, remember that they have met, and one that ends in good order says so, lest it be switched off for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from msgspec import Struct

from blockpair.arbiter.fence import FenceArbiter, Known
from blockpair.arbiter.interface import ArbiterRefused, Configuration, Key, configuration
from blockpair.cluster.server import PeerMethod
from blockpair.daemon.desired import BootMarker
from blockpair.daemon.judges import Judges
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import EngineStatus

# For these an engine asks that does without its peer.
_WANTS_ALONE = ("shrink", "promote", "resume")
_RECORD, _ENTERED = "peer.fence.record", "peer.fence.entered"
_WORD, _WORD_BACK = "peer.fence.word", "peer.fence.word-back"
# Seconds that an end in good order waits at most: who is not told fences.
CALL_SECONDS = 2.0

_Answer = TypeVar("_Answer")
Call = Callable[[str, str, Any], Awaitable[Any]]
"""Calls a method of another member within a few seconds; raises `BlockpairError`."""


class ResourceParams(Struct, forbid_unknown_fields=True):
    """Of which resource."""

    resource_id: str
    name: str


class WordParams(Struct, forbid_unknown_fields=True):
    """The caller is bound to change nothing while its record is of ``epoch``."""

    resource_id: str
    name: str
    epoch: int


class EnteredParams(Struct, forbid_unknown_fields=True):
    """A configuration that the caller has entered."""

    resource_id: str
    name: str
    configuration: dict[str, Any]


class Fencing:
    """For one resource. ``met``: the marker that its nodes have met in this boot."""

    def __init__(self, name: str, judges: Judges, met: BootMarker, call: Call) -> None:
        self._name = name
        self._judges = judges
        self._met = met
        self._call = call
        self._log = structlog.get_logger().bind(part="fence", resource=name)

    async def known(self, key: Key, status: EngineStatus) -> Known:
        """What the engine has entered, and what the other node's record says while the two are connected."""
        found = [] if status.arbitration is None else [status.arbitration.configuration]
        entered = [Configuration(one.epoch, one.primary, frozenset(one.in_sync)) for one in found if one]
        met = await asyncio.to_thread(self._met.is_set)
        peer = _connected(status)
        if peer is not None:
            with contextlib.suppress(BlockpairError):
                entered += await self._record_of(peer, key)
            return Known(tuple(entered), met)
        return Known(tuple(entered), met, _alone(status))

    async def tell(self, key: Key, status: EngineStatus, entered: Configuration) -> None:
        """Have the other node, while it is connected, put ``entered`` into its record. If it does not, it
        takes over from nobody until it has asked for it.
        """
        peer = _connected(status)
        if peer is None:
            return
        try:
            params = EnteredParams(key.resource_id, key.name, entered.document())
            await self._call(peer, _ENTERED, params)
        except BlockpairError as error:
            self._log.warning("fence.not-told", peer=peer, text=str(error))

    async def seen(self, status: EngineStatus) -> None:
        """To be told of every status. Where the nodes are connected: remember that they have met, once the
        other node's record is in this one's; and take back the word to be left out.
        """
        key, peer = self._key(status), _connected(status)
        arbiter = self._judges.fencing()
        if key is None or peer is None or arbiter is None:
            return
        try:
            if not await asyncio.to_thread(self._met.is_set):
                for record in await self._record_of(peer, key):
                    await arbiter.learn(key, record)
                await asyncio.to_thread(self._met.set)
                self._log.info("peer.met", peer=peer)
            if await arbiter.resigned(key):
                params = ResourceParams(key.resource_id, key.name)
                await arbiter.withdraw(key, await self._call(peer, _WORD_BACK, params))
        except (ArbiterRefused, BlockpairError) as error:
            # Until then nobody is fenced, or this node takes over from nobody; the next status tries again.
            self._log.warning("fence.not-settled", peer=peer, text=str(error))

    async def _record_of(self, peer: str, key: Key) -> list[Configuration]:
        """What the other node's record says: one at most. Raises `BlockpairError`."""
        answer = await self._call(peer, _RECORD, ResourceParams(key.resource_id, key.name))
        try:
            return [] if answer is None else [configuration(answer)]
        except ValueError as error:
            raise BlockpairError(
                ErrorKind.FAILED, f"{peer}'s record cannot be understood: {error}", "compare the versions"
            ) from None

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


def _alone(status: EngineStatus) -> int | None:
    """The epoch that an engine knows of which wants to go on without its peer, and has what it takes."""
    state = status.arbitration
    if state is None or state.want not in _WANTS_ALONE or status.disk not in ("UpToDate", "Consistent"):
        return None
    return None if any(peer.split_brain for peer in status.peers) else state.epoch


def _connected(status: EngineStatus) -> str | None:
    if status.state != "running":
        return None
    return next((peer.name for peer in status.peers if peer.connection == "Connected"), None)


def fence_methods(judges: Judges) -> dict[str, PeerMethod]:
    """What the other members may ask and tell."""

    def asked(caller: str, params: ResourceParams | WordParams | EnteredParams) -> tuple[FenceArbiter, Key]:
        if not judges.shares(params.name, caller):
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{caller} has no copy of {params.name} by the configuration here",
                "`blockpair config diff` shows whether the nodes agree",
            )
        found = judges.fencing()
        if found is None:
            raise BlockpairError(
                ErrorKind.FAILED, "the arbiter is not fencing here", "compare `blockpair config show`"
            )
        return found, Key(judges.cluster_id, params.resource_id, params.name)

    async def record(caller: str, params: ResourceParams) -> Any:
        arbiter, key = asked(caller, params)
        held = await _answered(arbiter.held(key))
        return None if held is None else held.document()

    async def entered(caller: str, params: EnteredParams) -> Any:
        arbiter, key = asked(caller, params)
        try:
            known = configuration(params.configuration)
        except ValueError as error:
            raise BlockpairError(ErrorKind.INVALID, str(error), "compare the versions") from None
        return await _answered(arbiter.learn(key, known))

    async def word(caller: str, params: WordParams) -> Any:
        arbiter, key = asked(caller, params)
        await _answered(arbiter.hear(key, caller, params.epoch))

    async def word_back(caller: str, params: ResourceParams) -> Any:
        arbiter, key = asked(caller, params)
        return await _answered(arbiter.forget(key, caller))

    return {
        _RECORD: PeerMethod(ResourceParams, record),
        _ENTERED: PeerMethod(EnteredParams, entered),
        _WORD: PeerMethod(WordParams, word),
        _WORD_BACK: PeerMethod(ResourceParams, word_back),
    }


async def _answered(work: Awaitable[_Answer]) -> _Answer:
    try:
        return await work
    except (ArbiterRefused, ValueError) as error:
        raise BlockpairError(ErrorKind.FAILED, str(error), "it is asked again by itself") from None
