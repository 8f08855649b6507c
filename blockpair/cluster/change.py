"""Making a change of the cluster's configuration, everywhere or nowhere."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from blockpair.cluster.config_messages import AbortParams, CommitParams, HeadAnswer, PrepareParams
from blockpair.cluster.history import Version, accepted, only_in
from blockpair.cluster.peers import NoAnswer
from blockpair.cluster.replicate import (
    COMMIT_SECONDS,
    PREPARE_SECONDS,
    STATE_SECONDS,
    Replica,
    Seen,
    parse_text,
    present_time,
)
from blockpair.cluster.rules import Effect, Task, check_change, effects
from blockpair.errors import BlockpairError, ErrorKind


@dataclass(frozen=True)
class Changed:
    """A change that was made; ``changed`` is false where there was nothing to change. ``pending``: the
    members that do not have it yet, and why; ``effects``: what must be taken down and up for it.
    """

    version: Version
    changed: bool = True
    pending: dict[str, str] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)


class Configuration(Replica):
    """The cluster's configuration, which this node may change."""

    async def change(
        self,
        make: Callable[[str], str],
        why: str,
        task: Task,
        *,
        needed: Collection[str] = (),
        without: Collection[str] = (),
        before_commit: Callable[[Version], Awaitable[None]] | None = None,
    ) -> Changed:
        """Make what ``make`` makes of the present text the next version, everywhere or nowhere. Members that
        cannot be reached get it later, unless they are in ``needed``; those in ``without`` are not asked.
        ``before_commit`` does what must be done before it is decided. Raises `BlockpairError`, and then
        nothing was changed.
        """
        async with _Change(self, without) as change:
            if self.conflicts.keys() - set(without):
                raise self._conflict()
            history = self.present()
            old = parse_text(history.head.text)
            text = make(history.head.text)
            if text == history.head.text:
                return Changed(history.head, changed=False)
            new = parse_text(text)
            check_change(old, new, task)
            for node in needed:
                if node in change.away:
                    raise BlockpairError(
                        ErrorKind.UNREACHABLE,
                        f"{node} is needed for this: {change.away[node]}",
                        f"see that blockpaird runs on {node} and can be reached",
                    )
            version = history.followed_by(text, author=self.node, time=present_time(), why=why)
            await self.check(old, new, task)
            await change.prepare(version, task, needed)
            if before_commit is not None:
                await before_commit(version)
            await self.decide(history.with_next(version), history.head_id)
        return Changed(version, pending=await change.tell(version), effects=effects(old, new))

    async def accept(self, node: str, expected: str) -> Changed:
        """End the conflict with ``node`` by taking its configuration, whose head must be ``expected``: what
        only this side has is given up. Raises `BlockpairError`, and then nothing was changed.
        """
        async with _Change(self, ()) as change:
            if node in change.away:
                raise BlockpairError(
                    ErrorKind.UNREACHABLE, change.away[node], f"see that blockpaird runs on {node}"
                )
            history, theirs = self.present(), self.conflicts.get(node)
            if theirs is None:
                raise BlockpairError(
                    ErrorKind.NOT_FOUND,
                    f"there is no conflict with {node}",
                    "`blockpair config diff` shows the conflicts that there are",
                )
            if theirs.head_id != expected:
                raise BlockpairError(
                    ErrorKind.UNSAFE,
                    f"the configuration of {node} has changed since it was shown",
                    "look again: blockpair config diff",
                )
            gone = ", ".join(str(version.number) for version in only_in(history, theirs))
            why = f"accepted the configuration of {node}; given up of {self.node}: {gone}"
            ended = accepted(history, theirs, author=self.node, time=present_time(), why=why)
            old, new = parse_text(history.head.text), parse_text(ended.head.text)
            task = Task("accept")
            check_change(old, new, task)
            await self.check(old, new, task)
            # Who else went another way is told, and cannot refuse that these two agree.
            await change.prepare(ended.head, task, (node,), only=(node,))
            await self.decide(ended, history.head_id)
            self.agreed(node)
        return Changed(ended.head, pending=await change.tell(ended.head), effects=effects(old, new))

    def _conflict(self) -> BlockpairError:
        nodes = " and ".join(sorted(self.conflicts))
        return BlockpairError(
            ErrorKind.UNSAFE,
            f"the configuration was changed on {self.node} and on {nodes} while they were apart: "
            "nothing is merged",
            "see both sides: `blockpair config diff`; then take one: `blockpair config accept NODE`",
        )


class _Change:
    """A change under way: holds still here, knows who was reached, tells them when it will not be made."""

    def __init__(self, replica: Replica, without: Collection[str]) -> None:
        self._replica = replica
        self._without = without
        self._id = secrets.token_hex(8)
        self._reached: list[str] = []
        self._asked: list[str] = []
        self.away: dict[str, str] = {}
        """The members that cannot be reached, and why."""

    async def __aenter__(self) -> _Change:
        replica = self._replica
        replica.present()
        replica.take(self._id, replica.node, math.inf)
        try:
            nodes = [node for node in replica.members if node not in self._without]
            ends = await asyncio.gather(*(replica.sync(node) for node in nodes), return_exceptions=True)
            for node, end in zip(nodes, ends, strict=True):
                if end is None:
                    self._reached.append(node)
                elif isinstance(end, BlockpairError) and end.kind is ErrorKind.UNREACHABLE:
                    self.away[node] = end.message
                else:
                    raise end
        except BaseException:
            replica.release(self._id)
            raise
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._replica.release(self._id)
        if isinstance(error, Exception) and self._asked:
            params = AbortParams(self._id)
            calls = (self._call(node, "peer.config.abort", params, STATE_SECONDS) for node in self._asked)
            # Who does not hear it holds still until its time is over, or the next contact.
            await asyncio.gather(*calls, return_exceptions=True)

    async def prepare(
        self, version: Version, task: Task, needed: Collection[str], only: Collection[str] | None = None
    ) -> None:
        """Ask who was reached, of them perhaps ``only`` some. Raises `BlockpairError` where one refuses."""
        nodes = [node for node in self._reached if only is None or node in only]
        self._asked = nodes
        self._replica.take(self._id, self._replica.node, math.inf, version.id())
        params = PrepareParams(self._id, version, task)
        calls = (self._call(node, "peer.config.prepare", params, PREPARE_SECONDS) for node in nodes)
        for node, end in zip(nodes, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if not isinstance(end, BaseException):
                continue
            if not isinstance(end, BlockpairError):
                raise end
            if end.kind is not ErrorKind.UNREACHABLE:
                raise BlockpairError(end.kind, f"{node} refuses: {end.message}", end.remedy)
            if isinstance(end, NoAnswer):
                # It may be about to refuse. Who takes part is asked; only who does not is left out.
                raise BlockpairError(
                    ErrorKind.TIMEOUT,
                    f"{node} takes part, and did not say in time whether it could live with the change",
                    f"see what keeps {node} busy (its log; a slow disk?), and repeat; or stop its blockpaird",
                )
            if node in needed:
                raise end
            self.away[node] = end.message
        self._reached = [node for node in self._reached if node not in self.away]

    async def tell(self, version: Version) -> dict[str, str]:
        """Tell the members that it was made; who does not have it yet, and why."""
        pending = dict(self.away)
        params = CommitParams(self._id, version)
        calls = (self._call(node, "peer.config.commit", params, COMMIT_SECONDS) for node in self._reached)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        for node, end in zip(self._reached, ends, strict=True):
            if isinstance(end, BlockpairError):
                pending[node] = end.message
            elif isinstance(end, BaseException):
                raise end
            else:
                self._replica.note(node, Seen(msgspec.convert(end, type=HeadAnswer).head))
        return pending

    async def _call(self, node: str, method: str, params: Struct, seconds: float) -> Any:
        return await self._replica.peers.call(node, method, msgspec.to_builtins(params), timeout=seconds)
