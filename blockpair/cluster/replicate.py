"""One configuration on all nodes: how a change is made on all or none, and how a node that was away catches
up.

A change is prepared on every member that can be reached: each looks whether it could live with it, and holds
still for a while. Then it is committed where it was made, which decides it, and the others are told. Who is
not told, or dies, goes forward at the next contact: the versions are a chain, so it is clear who is behind.
Two nodes that changed it while they were apart are in conflict; nothing is merged, and a person accepts one
of the two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog
from msgspec import Struct

from blockpair.cluster.config_messages import (
    AbortParams,
    CommitParams,
    FetchAnswer,
    FetchParams,
    HeadAnswer,
    PrepareParams,
    StateParams,
)
from blockpair.cluster.history import (
    History,
    Relation,
    Version,
    first_version,
    history_of,
    relation,
)
from blockpair.cluster.peers import NotTrusted
from blockpair.cluster.rules import Task, check_change, check_local
from blockpair.cluster.server import PeerMethod
from blockpair.cluster.store import Store
from blockpair.config.cluster import ClusterFile, parse_cluster
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.units import utc

STATE_SECONDS = 3.0
PREPARE_SECONDS = 30.0
COMMIT_SECONDS = 15.0
# How long a node holds still for another one's change: longer than that one may take to prepare the others.
HOLD_SECONDS = 45.0
CONTACT_SECONDS = 3.0
# What errors call a text that is not in a file yet.
_TEXT = Path("cluster.toml")


class Caller(Protocol):
    """Calls other members; `blockpair.cluster.peers.Peers`."""

    async def call(self, node: str, method: str, params: Any, *, timeout: float) -> Any:  # noqa: ASYNC109
        """The answer. Raises `BlockpairError`."""


class Local(Protocol):
    """What this node's daemon knows of its resources."""

    def is_up(self, name: str) -> bool:
        """Whether a resource runs or shall run."""

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        """Raises `BlockpairError` where this node's devices do not allow the change."""

    async def connected(self, node: str) -> list[str]:
        """The resources that replicate with ``node`` at this moment."""


@dataclass(frozen=True)
class Seen:
    """The last contact with a member: its head, or the last one known, and why it cannot be reached.
    ``distrusted``: it answers, and does not go by the same authority.
    """

    head: str | None
    problem: str | None = None
    distrusted: bool = False


@dataclass(frozen=True)
class _Hold:
    """Holding still for one change, made on ``node``; ``until`` by the monotonic clock; ``version``: the id
    of what it will make.
    """

    id: str
    node: str
    until: float
    version: str


class Replica:
    """The cluster's configuration as one node has it."""

    def __init__(
        self,
        node: str,
        store: Store,
        peers: Caller,
        local: Local,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._store = store
        self.peers = peers
        self._local = local
        self._clock = clock
        self._history: History | None = None
        self._content: ClusterFile | None = None
        self._hold: _Hold | None = None
        self._conflicts: dict[str, History] = {}
        self._seen: dict[str, Seen] = {}
        # Orders what is written to the disk.
        self._writing = asyncio.Lock()
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger().bind(part="configuration")
        self.failure: BlockpairError | None = None
        """Why the history cannot be read; nothing is changed then."""
        self.problems: list[str] = []
        """What of the configuration is not in this node's files, in words."""
        self.after_contact: Callable[[str], Awaitable[None]] | None = None
        """Called when a member's versions are known here, with its name."""
        self.rendered = asyncio.Event()
        """Set whenever this node's files were written, or found to be as they should; for one waiter."""

    # -- What it is

    @property
    def history(self) -> History | None:
        """The versions; None while this node is in no cluster."""
        return self._history

    @property
    def content(self) -> ClusterFile | None:
        """The present version's content; None while this node is in no cluster."""
        return self._content

    @property
    def members(self) -> list[str]:
        """The other nodes."""
        return [] if self._content is None else [node for node in self._content.members if node != self.node]

    @property
    def conflicts(self) -> dict[str, History]:
        """Versions of members that changed the configuration without this node, as it did without them."""
        known = frozenset[str]() if self._history is None else self._history.known
        return {
            node: found
            for node, found in self._conflicts.items()
            if node in self.members and found.head_id not in known
        }

    @property
    def seen(self) -> dict[str, Seen]:
        """The members, as they were at the last contact; without those that were not asked yet."""
        return {node: found for node, found in self._seen.items() if node in self.members}

    @property
    def distrusted(self) -> frozenset[str]:
        """The members that do not go by this node's authority: it was removed, or missed a change of it."""
        return frozenset(node for node, found in self.seen.items() if found.distrusted)

    def hand_edited(self) -> str | None:
        """The text of a cluster.toml that was edited by hand. Reads files."""
        return None if self._history is None else self._store.hand_edited(self._history)

    def is_up(self, name: str) -> bool:
        """Whether a resource runs here, or shall run."""
        return self._local.is_up(name)

    def shares(self, name: str) -> bool:
        """Whether ``name`` is a resource of the cluster."""
        return self._content is not None and name in self._content.resource

    # -- Beginning and end

    async def open(self) -> None:
        """Read what an earlier daemon left. A fault is kept as `failure`: the resources run all the same."""
        try:
            history = await asyncio.to_thread(self._store.load)
            if history is not None:
                self._set(history)
                await self._try_render(history)
        except BlockpairError as error:
            self.failure = error
            self._log.error("configuration.unreadable", text=error.message, remedy=error.remedy)
        if self._history is None:
            # Enough to know the other nodes, and to take the versions from them.
            self._content = await asyncio.to_thread(self._store.rendered_content)

    async def begin(self, text: str, why: str) -> None:
        """Make ``text`` the first version of a new cluster's configuration. Raises `BlockpairError`."""
        await self.adopt(first_version(text, author=self.node, time=present_time(), why=why))

    async def adopt(self, history: History) -> None:
        """Take the configuration of the cluster that this node joins. Raises `BlockpairError`."""
        async with self._writing:
            await self._install(history)

    async def decide(self, history: History, after: str) -> None:
        """Commit a change made here, to what was the version ``after``. Raises `BlockpairError`."""
        async with self._writing:
            if self.present().head_id != after:
                raise BlockpairError(
                    ErrorKind.FAILED, "the configuration has changed meanwhile", "look at it and try again"
                )
            await self._install(history)

    async def leave(self) -> None:
        """Forget the cluster's configuration; resource files stay, as this node's own. Raises
        `BlockpairError`.
        """
        async with self._writing:
            await asyncio.to_thread(self._store.forget)
            self._history = self._content = self._hold = None
            self._conflicts, self._seen, self.problems = {}, {}, []

    # -- Contact

    async def run(self) -> None:
        """Keep in touch with the members, until cancelled."""
        while True:
            await asyncio.gather(*(self._try_sync(node) for node in self.members))
            async with self._writing:
                if self._history is not None:
                    await self._try_render(self._history)
            deadline = asyncio.get_running_loop().time() + CONTACT_SECONDS
            while asyncio.get_running_loop().time() < deadline:
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._wake.wait()
                except TimeoutError:
                    break
                self._wake.clear()
                wanted, self._wanted = self._wanted, set()
                await asyncio.gather(*(self._try_sync(node) for node in wanted & set(self.members)))

    async def sync(self, node: str) -> None:
        """Compare with ``node``; go forward if this node is behind. Raises `BlockpairError`."""
        head = "" if self._history is None else self._history.head_id
        try:
            state = await self._ask(
                node, "peer.config.state", StateParams(head, self._own_hold()), STATE_SECONDS, HeadAnswer
            )
        except BlockpairError as error:
            self.note(node, Seen(None, error.message, isinstance(error, NotTrusted)))
            raise
        self.note(node, Seen(state.head))
        self._hear_hold(node, state.hold)
        history = self._history
        if not state.head or (history is not None and state.head in history.known):
            self._conflicts.pop(node, None)
        else:
            have = [] if history is None else list(history.ids)
            answer = await self._ask(
                node, "peer.config.fetch", FetchParams(have), COMMIT_SECONDS, FetchAnswer
            )
            await self._compare(node, answer.versions)
        if self.after_contact is not None and node not in self._conflicts:
            await self.after_contact(node)

    def methods(self) -> dict[str, PeerMethod]:
        """What other members may call."""
        return {
            "peer.config.state": PeerMethod(StateParams, self._on_state),
            "peer.config.fetch": PeerMethod(FetchParams, self._on_fetch),
            "peer.config.prepare": PeerMethod(PrepareParams, self._on_prepare),
            "peer.config.commit": PeerMethod(CommitParams, self._on_commit),
            "peer.config.abort": PeerMethod(AbortParams, self._on_abort),
        }

    async def _on_state(self, caller: str, params: StateParams) -> Any:
        self._hear_hold(caller, params.hold)
        history = self._history
        self.note(caller, Seen(params.head))
        if history is None or params.head not in history.known:
            self._wanted.add(caller)
            self._wake.set()
        elif params.head:
            self._conflicts.pop(caller, None)
        return HeadAnswer("" if history is None else history.head_id, self._own_hold())

    async def _on_fetch(self, caller: str, params: FetchParams) -> Any:
        return FetchAnswer(list(self.present().since(set(params.have))))

    async def _on_prepare(self, caller: str, params: PrepareParams) -> Any:
        version = params.version
        if self.present().head_id != version.parent:
            await self.sync(caller)
        if self.present().head_id != version.parent:
            self._check_free(params.hold)
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{self.node} has another version of the configuration",
                "see `blockpair config diff`, then try again",
            )
        self.take(params.hold, caller, HOLD_SECONDS, version.id())
        try:
            old, new = parse_text(self.present().head.text), parse_text(version.text)
            check_change(old, new, params.task)
            await self.check(old, new, params.task)
            # What the checks took is not taken from the time for the commit.
            self.take(params.hold, caller, HOLD_SECONDS, version.id())
        except BaseException:
            self.release(params.hold)
            raise
        return {}

    async def _on_commit(self, caller: str, params: CommitParams) -> Any:
        async with self._writing:
            history = self.present()
            if params.version.parent == history.head_id:
                parse_text(params.version.text)
                await self._install(_chained(history.with_next, params.version))
        self.release(params.hold)
        if params.version.id() not in self.present().known:
            await self.sync(caller)
        self.note(caller, Seen(params.version.id()))
        return HeadAnswer(self.present().head_id)

    async def _on_abort(self, caller: str, params: AbortParams) -> Any:
        if self._hold is not None and self._hold.node == caller:
            self.release(params.hold)
        return {}

    # -- Holding still

    def take(self, hold: str, node: str, seconds: float, version: str = "") -> None:
        """Hold still for a change of ``node``, which may make the version of id ``version``. Raises
        `BlockpairError` while another one is being made.
        """
        self._check_free(hold)
        self._hold = _Hold(hold, node, self._clock() + seconds, version)

    def _check_free(self, hold: str) -> None:
        if self._hold is not None and self._hold.until > self._clock() and self._hold.id != hold:
            raise BlockpairError(
                ErrorKind.BUSY,
                f"the configuration is being changed at this moment (on {self._hold.node})",
                "try again in a few seconds",
            )

    def holds(self, version: str) -> bool:
        """Whether this node holds still for the version of that id."""
        hold = self._hold
        return hold is not None and hold.until > self._clock() and hold.version == version

    def _own_hold(self) -> str | None:
        return self._hold.id if self._hold is not None and self._hold.node == self.node else None

    def _hear_hold(self, node: str, hold: str | None) -> None:
        """``node`` says which change it makes at the moment."""
        if self._hold is None or self._hold.node != node:
            return
        if self._hold.id != hold:
            # It was killed, or its word that the change does not come was lost.
            self._hold = None
        else:
            self._hold = replace(self._hold, until=self._clock() + HOLD_SECONDS)

    def agreed(self, node: str) -> None:
        """The conflict with ``node`` has ended."""
        self._conflicts.pop(node, None)

    def release(self, hold: str) -> None:
        """The change has been made, or will not be."""
        if self._hold is not None and self._hold.id == hold:
            self._hold = None

    def _held_for_another(self, node: str, theirs: History) -> bool:
        # A change made here notices by itself that the version it follows is no longer the last.
        hold = self._hold
        if hold is None or hold.until <= self._clock() or hold.node in (node, self.node):
            return False
        return hold.version not in theirs.known

    # -- Parts

    def present(self) -> History:
        """The versions. Raises `BlockpairError` where there are none."""
        if self.failure is not None:
            raise self.failure
        if self._history is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{self.node} is in no cluster",
                "make one: `blockpair cluster init NAME`, or join one: `blockpair cluster join`",
            )
        return self._history

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        """Raises `BlockpairError` where this node's resources do not allow the change."""
        check_local(old, new, self.node, self._local.is_up)
        await self._local.check(old, new, task)

    async def _ask(self, node: str, method: str, params: Struct, seconds: float, form: type[Any]) -> Any:
        answer = await self.peers.call(node, method, msgspec.to_builtins(params), timeout=seconds)
        try:
            return msgspec.convert(answer, type=form)
        except msgspec.ValidationError as error:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{node} answers {method} in another form than expected: {error}",
                "run the same version of blockpair on all nodes",
            ) from None

    async def _compare(self, node: str, versions: list[Version]) -> None:
        """Go forward to what ``node`` has, or note the conflict. Raises `BlockpairError`."""
        async with self._writing:
            if self.failure is not None:
                # A person sees to what is left of the versions first.
                raise self.failure
            ours = self._history
            if ours is None:
                theirs, found = _chained(history_of, versions), Relation.BEHIND
            elif versions:
                theirs = _chained(ours.grafted, versions)
                found = relation(ours, theirs)
            else:
                return
            if found is not Relation.CONFLICT:
                self._conflicts.pop(node, None)
            elif self._conflicts.get(node) != theirs:
                self._conflicts[node] = theirs
                self._log.error("configuration.conflict", peer=node, version=theirs.head.number)
            if found is Relation.BEHIND and not self._held_for_another(node, theirs):
                parse_text(theirs.head.text)
                await self._install(theirs)
                self._log.info("configuration.caught-up", peer=node, version=theirs.head.number)

    async def _install(self, history: History) -> None:
        """Make ``history`` this node's, durably; with the lock held. Raises `BlockpairError`, and then it is
        not.
        """
        parse_text(history.head.text)
        await asyncio.to_thread(self._store.save, history)
        # Whoever sees the version finds the files as it says.
        await self._try_render(history)
        self._set(history)

    def _set(self, history: History) -> None:
        self._content = parse_text(history.head.text)
        self._history = history
        self.failure = None

    async def _render(self, history: History) -> None:
        problems = await asyncio.to_thread(self._store.render, history, self._local.is_up)
        for problem in problems:
            if problem not in self.problems:
                self._log.warning("configuration.not-rendered", text=problem)
        self.problems = problems

    async def _try_render(self, history: History) -> None:
        """The version counts without its files, which are written again and again until they are right."""
        try:
            await self._render(history)
        except BlockpairError as error:
            self.problems = [error.message]
        self.rendered.set()

    def note(self, node: str, seen: Seen) -> None:
        """Remember how a member was at this contact."""
        before = self._seen.get(node)
        if seen.head is None and before is not None:
            # Who is away has at least what it had.
            seen = replace(seen, head=before.head)
        self._seen[node] = seen
        if (before is None or before.problem is None) != (seen.problem is None):
            self._log.info("configuration.contact", peer=node, problem=seen.problem)

    async def _try_sync(self, node: str) -> None:
        try:
            await self.sync(node)
        except BlockpairError as error:
            if error.kind is not ErrorKind.UNREACHABLE:
                self._log.warning("configuration.contact-failed", peer=node, text=error.message)
        except Exception:
            # Contact is sought again: it must not end for the sake of one answer.
            self._log.exception("configuration.contact-failed", peer=node)


def parse_text(text: str) -> ClusterFile:
    """A version's content. Raises `ConfigError`."""
    return parse_cluster(text, _TEXT)


def _chained(make: Callable[[Any], History], given: Any) -> History:
    """What ``make`` makes of another node's versions. Raises `BlockpairError` where they are no chain."""
    try:
        return make(given)
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.DAMAGED, f"the versions of another node are no chain: {error}", "see that node's status"
        ) from None


def present_time() -> str:
    """The time of a version."""
    return utc(datetime.now(UTC))
