"""The cluster's arbiter: one for all resources of the daemon, made anew when configuration or trust
change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from blockpair.arbiter.fence import FenceArbiter
from blockpair.arbiter.interface import (
    Arbiter,
    ArbiterKind,
    ArbiterRefused,
    ArbiterUnreachable,
    Configuration,
    Key,
)
from blockpair.arbiter.runner import ANSWER_SECONDS, CALL_SECONDS
from blockpair.cluster.report import ArbiterLook
from blockpair.config.arbiter import MANUAL, place
from blockpair.config.cluster import ClusterFile
from blockpair.errors import BlockpairError
from blockpair.status.arbitration import without_place
from blockpair.trust.store import Generation

# No resource has it: what is read under it is only to see whether the arbiter answers.
_NOBODYS = "0" * 32


@dataclass
class _Present:
    """An arbiter that is in use; closed when it is retired and nobody's call is under way."""

    arbiter: Arbiter
    users: int = 0
    retired: bool = False


class Judges:
    """``build`` makes the arbiter of a configuration; it raises `BlockpairError` where that cannot be
    done.
    """

    def __init__(self, build: Callable[[ClusterFile], Arbiter]) -> None:
        self._build = build
        self._content: ClusterFile | None = None
        self._generation: Generation | None = None
        self._present: _Present | None = None
        self._former: _Present | None = None
        self._problem = "this node is in no cluster"
        self._closing: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger().bind(part="arbiter")

    @property
    def kind(self) -> str:
        """The kind that is configured; "manual" without a cluster."""
        return MANUAL if self._content is None else self._content.arbiter.kind

    @property
    def clustered(self) -> bool:
        """Whether this node is in a cluster."""
        return self._content is not None

    @property
    def cluster_id(self) -> str:
        """The cluster's; empty in none."""
        return "" if self._content is None else self._content.cluster.id

    def place(self, kind: str) -> str:
        """Where an arbiter of that kind is, for a person."""
        if self._content is None or kind != self._content.arbiter.kind:
            return kind
        return place(self._content.arbiter)

    def take(self, content: ClusterFile | None, generation: Generation | None) -> None:
        """From here on it is the arbiter that ``content`` names, asked with the trust of ``generation``. In
        the event loop.
        """
        if self._same(content, generation):
            self._content = content
            return
        old, self._present = self._present, None
        trusted = content is not None and generation == self._generation
        if trusted and old is not None and content is not None and content.arbiter.kind != old.arbiter.kind:
            self._former, old = old, self._former
        elif not trusted:
            self._retire(self._former)
            self._former = None
        self._retire(old)
        self._content, self._generation = content, generation
        if content is None:
            self._problem = "this node is in no cluster"
        elif generation is None:
            self._problem = "this node has no trust that can be used: `blockpair cluster status`"
        elif content.arbiter.kind == MANUAL:
            self._problem = "the cluster has no arbiter any more: take the resource down and up"
        else:
            try:
                self._present = _Present(self._build(content))
            except BlockpairError as error:
                self._problem = f"{error.message}; {error.remedy}"
                self._log.error("arbiter.failed", text=error.message, remedy=error.remedy)

    def _same(self, content: ClusterFile | None, generation: Generation | None) -> bool:
        old = self._content
        if old is None or content is None or self._present is None:
            return False
        return (old.arbiter, old.fence, old.node, old.cluster.id, self._generation) == (
            content.arbiter,
            content.fence,
            content.node,
            content.cluster.id,
            generation,
        )

    def by(self, kind: ArbiterKind) -> Arbiter:
        """The arbiter, for a resource that goes by one of that kind: whichever it is at each call."""
        return _Lasting(self, kind)

    @asynccontextmanager
    async def present(self, kind: ArbiterKind) -> AsyncIterator[Arbiter]:
        """The arbiter for the time of a call: of another kind than is configured, the one before it, which a
        resource goes by until it is taken down. Raises `ArbiterUnreachable` where there is none.
        """
        present = self._of(kind) or self._present
        if present is None:
            raise ArbiterUnreachable(self._problem)
        if present.arbiter.kind != kind:
            raise ArbiterUnreachable(
                f"the cluster's arbiter is of the kind {present.arbiter.kind} now: take the resource down "
                "and up"
            )
        present.users += 1
        try:
            yield present.arbiter
        finally:
            present.users -= 1
            self._close_unused(present)

    def shares(self, name: str, node: str) -> bool:
        """Whether ``node`` has a copy of the resource ``name``, by the cluster's configuration."""
        entry = None if self._content is None else self._content.resource.get(name)
        return entry is not None and node in entry.on

    def answer_seconds(self, node: str) -> float:
        """How long the arbiter may take to say that its asker goes on without ``node``."""
        arbiter = self.fencing()
        return ANSWER_SECONDS + (0.0 if arbiter is None else arbiter.longest(node))

    def fencing(self) -> FenceArbiter | None:
        """The arbiter, where it is fencing."""
        present = self._of("fence")
        arbiter = None if present is None else present.arbiter
        return arbiter if isinstance(arbiter, FenceArbiter) else None

    def being_fenced(self, node: str) -> float | None:
        """For how many seconds ``node`` is being switched off; None: it is not."""
        arbiter = self.fencing()
        return None if arbiter is None else arbiter.under_way.get(node)

    def ailing(self) -> str | None:
        """What is wrong with an arbiter that is asked of its own accord, without anybody's need; None:
        nothing, or nobody knows.
        """
        arbiter = self.fencing()
        return None if arbiter is None else arbiter.ailing

    async def look(self) -> ArbiterLook | None:
        """Whether the arbiter answers at this moment; None where there is none."""
        content = self._content
        if content is None or content.arbiter.kind == "manual":
            return None
        kind, where = content.arbiter.kind, place(content.arbiter)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self.by(kind).read(Key(content.cluster.id, _NOBODYS, ""))
        except (ArbiterUnreachable, ArbiterRefused, TimeoutError) as error:
            why = without_place(str(error), where) or f"no answer within {CALL_SECONDS:g} s"
            return ArbiterLook(kind, where, reachable=False, why=why, seconds=round(loop.time() - began, 4))
        if (ailing := self.ailing()) is not None:
            return ArbiterLook(kind, where, reachable=False, why=ailing)
        return ArbiterLook(kind, where, reachable=True, seconds=round(loop.time() - began, 4))

    async def close(self) -> None:
        """Let go of it; calls that are under way end as they may."""
        self._problem = "the daemon ends"
        for present in (self._present, self._former):
            self._retire(present)
        self._present = self._former = None
        if self._closing:
            await asyncio.wait(self._closing)

    def _of(self, kind: ArbiterKind) -> _Present | None:
        known = (self._present, self._former)
        return next((one for one in known if one is not None and one.arbiter.kind == kind), None)

    def _retire(self, present: _Present | None) -> None:
        if present is not None:
            present.retired = True
            self._close_unused(present)

    def _close_unused(self, present: _Present) -> None:
        if present.retired and not present.users:
            task = asyncio.create_task(present.arbiter.close())
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("arbiter.not-closed", text=str(error))


class _Lasting:
    """`Judges` as one `Arbiter`."""

    def __init__(self, judges: Judges, kind: ArbiterKind) -> None:
        self._judges = judges
        self._kind = kind

    @property
    def kind(self) -> ArbiterKind:
        return self._kind

    async def read(self, key: Key) -> Configuration | None:
        async with self._judges.present(self._kind) as arbiter:
            return await arbiter.read(key)

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        async with self._judges.present(self._kind) as arbiter:
            return await arbiter.compare_and_swap(key, expected, new)

    async def close(self) -> None:
        """Nothing: others use it too."""
