"""One configuration on all nodes: how a change is made on all or none, and how a node that was away catches up.

A change is prepared on every member that can be reached: each looks whether it could live with it, and holds still
for a while. Then it is committed where it was made, which decides it, and the others are told. Who is not told, or
dies, goes forward at the next contact: the versions are a chain, so it is clear who is behind. Two nodes that
changed it while they were apart are in conflict; nothing is merged, and a person accepts one of the two.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog
from msgspec import Struct

from blockpair.cluster.history import History, Relation, Version, accepted, first_version, only_in, relation
from blockpair.cluster.rules import Effect, Task, check_change, check_local, effects
from blockpair.cluster.server import PeerMethod
from blockpair.cluster.store import Store
from blockpair.config.cluster import ClusterFile, parse_cluster
from blockpair.config.files import ConfigError
from blockpair.errors import BlockpairError, ErrorKind

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


@dataclass(frozen=True)
class Changed:
    """A change that was made. ``pending``: the members that do not have it yet, and why; ``effects``: what must be
    taken down and up for it.
    """

    version: Version
    pending: dict[str, str]
    effects: list[Effect]


@dataclass(frozen=True)
class Seen:
    """The last contact with a member: its head, and why there is none if it cannot be reached."""

    head: str | None
    problem: str | None = None


@dataclass(frozen=True)
class _Hold:
    """Holding still for one change, made on ``node``; ``until`` by the monotonic clock."""

    id: str
    node: str
    until: float


class StateParams(Struct, forbid_unknown_fields=True):
    """``head``: the caller's; ``hold``: the change it makes at the moment."""

    head: str
    hold: str | None = None


class FetchParams(Struct, forbid_unknown_fields=True):
    """``have``: the ids of the caller's versions."""

    have: list[str]


class PrepareParams(Struct, forbid_unknown_fields=True):
    """A version that may come."""

    hold: str
    version: Version
    task: Task


class CommitParams(Struct, forbid_unknown_fields=True):
    """A version that has come."""

    hold: str
    version: Version


class AbortParams(Struct, forbid_unknown_fields=True):
    """A change that does not come."""

    hold: str


class _Head(Struct):
    head: str


class _Fetched(Struct):
    versions: list[Version]


class Configuration:
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
        self._node = node
        self._store = store
        self._peers = peers
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
        return [] if self._content is None else [node for node in self._content.node if node != self._node]

    @property
    def conflicts(self) -> dict[str, History]:
        """The members that changed the configuration without this node, while this one did; their versions."""
        return {node: found for node, found in self._conflicts.items() if node in self.members}

    @property
    def seen(self) -> dict[str, Seen]:
        """The members, as they were at the last contact; without those that were not asked yet."""
        return {node: found for node, found in self._seen.items() if node in self.members}

    def hand_edited(self) -> str | None:
        """The text of a cluster.toml that was edited by hand. Reads files."""
        return None if self._history is None else self._store.hand_edited(self._history)

    def renders(self, name: str) -> bool:
        """Whether the configuration has the resource ``name`` on this node."""
        entry = None if self._content is None else self._content.resource.get(name)
        return entry is not None and self._node in entry.on

    # -- Beginning and end

    async def open(self) -> None:
        """Read what an earlier daemon left. A fault is kept as `failure`: the resources run all the same."""
        try:
            history = await asyncio.to_thread(self._store.load)
            if history is not None:
                self._set(history)
                await self._render()
        except BlockpairError as error:
            self.failure = error
            self._log.error("configuration.unreadable", text=error.message, remedy=error.remedy)

    async def begin(self, text: str, why: str) -> None:
        """Make ``text`` the first version of a new cluster's configuration. Raises `BlockpairError`."""
        await self.adopt(first_version(text, author=self._node, time=_now(), why=why))

    async def adopt(self, history: History) -> None:
        """Take the configuration of the cluster that this node joins. Raises `BlockpairError`."""
        async with self._writing:
            await self._install(history)

    async def leave(self) -> None:
        """Forget the cluster's configuration; resource files stay, as this node's own. Raises `BlockpairError`."""
        async with self._writing:
            await asyncio.to_thread(self._store.forget)
            self._history = self._content = self._hold = None
            self._conflicts, self._seen, self.problems = {}, {}, []

    # -- Changing it

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
        """Make what ``make`` makes of the present text the next version, everywhere or nowhere. Members that cannot
        be reached get it later, unless they are in ``needed``; those in ``without`` are not asked.
        ``before_commit`` does what must be done before it is decided. Raises `BlockpairError`, and then nothing
        was changed.
        """
        async with _Change(self, without) as change:
            history = self._present()
            if self.conflicts.keys() - set(without):
                raise self._conflict_error()
            old = _parse(history.head.text)
            text = make(history.head.text)
            new = _parse(text)
            if text == history.head.text:
                return Changed(history.head, {}, [])
            check_change(old, new, task)
            for node in needed:
                if node in change.away:
                    raise BlockpairError(
                        ErrorKind.UNREACHABLE, f"{node} is needed for this: {change.away[node]}", f"start {node}"
                    )
            version = history.followed_by(text, author=self._node, time=_now(), why=why)
            await self._check(old, new, task)
            await change.prepare(version, task, needed)
            if before_commit is not None:
                await before_commit(version)
            await change.commit(history.with_next(version), history.head_id)
        return Changed(version, await change.tell(version), effects(old, new))

    async def accept(self, node: str, expected: str) -> Changed:
        """End the conflict with ``node`` by taking its configuration, whose head must be ``expected``: what only
        this side has is given up. Raises `BlockpairError`.
        """
        async with _Change(self, ()) as change:
            history = self._present()
            theirs = self._conflicts.get(node)
            if node in change.away:
                raise BlockpairError(ErrorKind.UNREACHABLE, change.away[node], f"see that {node} runs")
            if theirs is None:
                raise BlockpairError(
                    ErrorKind.NOT_FOUND, f"there is no conflict with {node}", "`blockpair config diff` shows them"
                )
            if theirs.head_id != expected:
                raise BlockpairError(
                    ErrorKind.UNSAFE,
                    f"the configuration of {node} has changed since it was shown",
                    "look again: blockpair config diff",
                )
            gone = len(only_in(history, theirs))
            why = f"accepted the configuration of {node}; {gone} version(s) of {self._node}'s side given up"
            ended = accepted(history, theirs, author=self._node, time=_now(), why=why)
            old, new = _parse(history.head.text), _parse(ended.head.text)
            task = Task("accept")
            await self._check(old, new, task)
            change.only(node)
            await change.prepare(ended.head, task, (node,))
            await change.commit(ended, history.head_id)
            self._conflicts.pop(node, None)
        return Changed(ended.head, await change.tell(ended.head), effects(old, new))

    # -- Contact

    async def run(self) -> None:
        """Keep in touch with the members, until cancelled."""
        while True:
            await asyncio.gather(*(self._try_sync(node) for node in self.members))
            if self._history is not None:
                await self._try_render()
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
        own = self._hold.id if self._hold is not None and self._hold.node == self._node else None
        head = "" if self._history is None else self._history.head_id
        try:
            state = await self._ask(node, "peer.config.state", StateParams(head, own), STATE_SECONDS, _Head)
        except BlockpairError as error:
            self._note(node, Seen(None, error.message))
            raise
        self._note(node, Seen(state.head))
        history = self._history
        if not state.head or (history is not None and state.head in history.known):
            self._conflicts.pop(node, None)
        else:
            have = [] if history is None else list(history.ids)
            answer = await self._ask(
                node, "peer.config.fetch", FetchParams(have), COMMIT_SECONDS, _Fetched
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
        if self._hold is not None and self._hold.node == caller and self._hold.id != params.hold:
            # It makes no such change any more: it was killed, or its word of the end did not get through.
            self._hold = None
        history = self._history
        self._note(caller, Seen(params.head))
        if history is None or params.head not in history.known:
            self._wanted.add(caller)
            self._wake.set()
        elif params.head:
            self._conflicts.pop(caller, None)
        return _Head("" if history is None else history.head_id)

    async def _on_fetch(self, caller: str, params: FetchParams) -> Any:
        return _Fetched(list(self._present().since(set(params.have))))

    async def _on_prepare(self, caller: str, params: PrepareParams) -> Any:
        version = params.version
        if self._present().head_id != version.parent:
            await self.sync(caller)
        if self._present().head_id != version.parent:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{self._node} has another version of the configuration",
                "see `blockpair config diff`, then try again",
            )
        self.take(params.hold, caller, HOLD_SECONDS)
        try:
            old, new = _parse(self._present().head.text), _parse(version.text)
            check_change(old, new, params.task)
            await self._check(old, new, params.task)
            # What the checks took is not taken from the time for the commit.
            self.take(params.hold, caller, HOLD_SECONDS)
        except BaseException:
            self.release(params.hold)
            raise
        return {}

    async def _on_commit(self, caller: str, params: CommitParams) -> Any:
        async with self._writing:
            history = self._present()
            if params.version.parent == history.head_id:
                _parse(params.version.text)
                await self._install(_chained(history.with_next, params.version))
        self.release(params.hold)
        if params.version.id() not in self._present().known:
            await self.sync(caller)
        self._note(caller, Seen(params.version.id()))
        return _Head(self._present().head_id)

    async def _on_abort(self, caller: str, params: AbortParams) -> Any:
        if self._hold is not None and self._hold.node == caller:
            self.release(params.hold)
        return {}

    # -- Holding still

    def take(self, hold: str, node: str, seconds: float) -> None:
        """Hold still for a change of ``node``. Raises `BlockpairError` while another one is being made."""
        now = self._clock()
        if self._hold is not None and self._hold.until > now and self._hold.id != hold:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"the configuration is being changed at this moment (on {self._hold.node})",
                "try again in a few seconds",
            )
        self._hold = _Hold(hold, node, now + seconds)

    def release(self, hold: str) -> None:
        """The change has been made, or will not be."""
        if self._hold is not None and self._hold.id == hold:
            self._hold = None

    # -- Parts

    def _present(self) -> History:
        if self.failure is not None:
            raise self.failure
        if self._history is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{self._node} is in no cluster",
                "make one: `blockpair cluster init NAME`, or join one: `blockpair cluster join`",
            )
        return self._history

    def _conflict_error(self) -> BlockpairError:
        nodes = " and ".join(sorted(self.conflicts))
        return BlockpairError(
            ErrorKind.UNSAFE,
            f"the configuration was changed on {self._node} and on {nodes} without each other: nothing is merged",
            "see both sides: `blockpair config diff`; then take one: `blockpair config accept NODE`",
        )

    async def _check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        check_local(old, new, self._node, self._local.is_up)
        await self._local.check(old, new, task)

    async def _ask(self, node: str, method: str, params: Struct, seconds: float, form: type[Any]) -> Any:
        answer = await self._peers.call(node, method, msgspec.to_builtins(params), timeout=seconds)
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
            ours = self._history
            if ours is None:
                theirs, found = _chained(_history_of, versions), Relation.BEHIND
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
            held = self._hold is not None and self._hold.until > self._clock() and self._hold.node != node
            if found is Relation.BEHIND and not held:
                _parse(theirs.head.text)
                await self._install(theirs)
                self._log.info("configuration.caught-up", peer=node, version=theirs.head.number)

    async def _install(self, history: History) -> None:
        """Make ``history`` this node's, durably; with the lock held. Raises `BlockpairError`, and then it is not."""
        _parse(history.head.text)
        await asyncio.to_thread(self._store.save, history)
        self._set(history)
        await self._try_render()

    def _set(self, history: History) -> None:
        self._content = _parse(history.head.text)
        self._history = history
        self.failure = None

    async def _render(self) -> None:
        if self._history is not None:
            problems = await asyncio.to_thread(self._store.render, self._history, self._local.is_up)
            for problem in problems:
                if problem not in self.problems:
                    self._log.warning("configuration.not-rendered", text=problem)
            self.problems = problems

    async def _try_render(self) -> None:
        """The version counts without its files, which are written again and again until they are right."""
        try:
            await self._render()
        except BlockpairError as error:
            self.problems = [error.message]

    def _note(self, node: str, seen: Seen) -> None:
        before = self._seen.get(node)
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


class _Change:
    """A change under way: holds still here, knows who was reached, and tells everybody when it will not be made."""

    def __init__(self, configuration: Configuration, without: Collection[str]) -> None:
        self._of = configuration
        self._without = without
        self._id = secrets.token_hex(8)
        self._reached: list[str] = []
        self._asked: list[str] = []
        self.away: dict[str, str] = {}
        """The members that cannot be reached, and why."""

    async def __aenter__(self) -> _Change:
        self._of._present()
        self._of.take(self._id, self._of._node, math.inf)
        try:
            nodes = [node for node in self._of.members if node not in self._without]
            ends = await asyncio.gather(*(self._of.sync(node) for node in nodes), return_exceptions=True)
            for node, end in zip(nodes, ends, strict=True):
                if end is None:
                    self._reached.append(node)
                elif isinstance(end, BlockpairError) and end.kind is ErrorKind.UNREACHABLE:
                    self.away[node] = end.message
                else:
                    raise end
        except BaseException:
            self._of.release(self._id)
            raise
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._of.release(self._id)
        if error is not None and self._asked:
            told = (self._call(node, "peer.config.abort", AbortParams(self._id), STATE_SECONDS) for node in self._asked)
            await asyncio.gather(*told, return_exceptions=True)

    def only(self, node: str) -> None:
        """Of the members reached, ask ``node`` alone; the others are told."""
        self._asked_of = [node]

    _asked_of: list[str] | None = None

    async def prepare(self, version: Version, task: Task, needed: Collection[str]) -> None:
        """Ask who was reached. Raises `BlockpairError` where one of them refuses."""
        nodes = self._reached if self._asked_of is None else self._asked_of
        self._asked = list(nodes)
        params = PrepareParams(self._id, version, task)
        calls = (self._call(node, "peer.config.prepare", params, PREPARE_SECONDS) for node in nodes)
        for node, end in zip(nodes, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if not isinstance(end, BaseException):
                continue
            if not isinstance(end, BlockpairError):
                raise end
            if end.kind is ErrorKind.UNREACHABLE and node not in needed:
                self.away[node] = end.message
                continue
            refusal = end.kind is not ErrorKind.UNREACHABLE
            text = f"{node} refuses: {end.message}" if refusal else end.message
            raise BlockpairError(end.kind, text, end.remedy)
        self._reached = [node for node in self._reached if node not in self.away]

    async def commit(self, history: History, after: str) -> None:
        """Decide it: durable here. Raises `BlockpairError`."""
        async with self._of._writing:
            if self._of._present().head_id != after:
                raise BlockpairError(
                    ErrorKind.FAILED, "the configuration has changed meanwhile", "look at it and try again"
                )
            await self._of._install(history)

    async def tell(self, version: Version) -> dict[str, str]:
        """Tell the members; who does not have it yet, and why."""
        pending = dict(self.away)
        params = CommitParams(self._id, version)
        calls = (self._call(node, "peer.config.commit", params, COMMIT_SECONDS) for node in self._reached)
        for node, end in zip(self._reached, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(end, BlockpairError):
                pending[node] = end.message
            elif isinstance(end, BaseException):
                raise end
            else:
                self._of._note(node, Seen(msgspec.convert(end, type=_Head).head))
        return pending

    async def _call(self, node: str, method: str, params: Struct, seconds: float) -> Any:
        return await self._of._peers.call(node, method, msgspec.to_builtins(params), timeout=seconds)


def _parse(text: str) -> ClusterFile:
    return parse_cluster(text, _TEXT)


def _history_of(versions: list[Version]) -> History:
    from blockpair.cluster.history import history_of

    return history_of(versions)


def _chained(make: Callable[[Any], History], given: Any) -> History:
    """What ``make`` makes of another node's versions. Raises `BlockpairError` where they are no chain."""
    try:
        return make(given)
    except ValueError as error:
        raise BlockpairError(
            ErrorKind.DAMAGED, f"the versions of another node are no chain: {error}", "see that node's status"
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


__all__ = ["Caller", "Changed", "ConfigError", "Configuration", "Local", "Seen"]
