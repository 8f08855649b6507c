"""Several nodes in one process, on loopback: how a cluster begins, changes its authority, and loses nodes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from blockpair.cluster.cluster import Cluster
from blockpair.cluster.membership import Membership
from blockpair.cluster.rekey import Rekey
from blockpair.cluster.removal import Removal
from blockpair.cluster.report import ClusterReport, MemberReport, Reporter, warnings
from blockpair.cluster.rules import Task, with_resource, without_node
from blockpair.config.cluster import ClusterFile, CopyEntry, ResourceEntry
from blockpair.config.locations import locations
from blockpair.config.names import Address
from blockpair.config.node import NodeConfig
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority
from blockpair.trust.store import Generation
from tests.e2e.cluster import free_ports

FIFTEEN = timedelta(minutes=15)


class Local:
    """A node without resources, but for those that replicate with ``peers``."""

    def __init__(self) -> None:
        self.peers: dict[str, list[str]] = {}

    async def connected(self, node: str) -> list[str]:
        return self.peers.get(node, [])

    def is_up(self, name: str) -> bool:
        return False

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        return None


async def no_arbiter() -> None:
    """The cluster has none."""


class Clock:
    """The wall clock of all nodes."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


class Daemon:
    """What a daemon has of the cluster; a new one from the same directory is a restart."""

    def __init__(self, name: str, base: Path, clock: Clock, control: int, port: int) -> None:
        places = locations(directory=str(base / name))
        places.resources.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._made_of = (name, base, clock, control, port)
        self.trusted: Generation | None = None

        async def give_trust(generation: Generation | None) -> None:
            self.trusted = generation

        node = NodeConfig(
            name, Address("127.0.0.1", port), Address("127.0.0.1", control), "off", "auto", "info"
        )
        self.local = Local()
        self.cluster = Cluster(node, places, self.local, give_trust, clock)
        self.rekey = Rekey(self.cluster)
        self.membership = Membership(self.cluster, port)
        self.removal = Removal(self.cluster, self.rekey)
        self.reporter = Reporter(self.cluster, self.rekey, no_arbiter)

    def again(self) -> Daemon:
        """The next daemon of this node."""
        return Daemon(*self._made_of)

    @property
    def control(self) -> Address:
        return self.cluster.node.control

    @property
    def authority(self) -> str:
        return self.cluster.generation.authority.certificate

    async def start(self) -> Daemon:
        await self.cluster.start()
        return self

    async def join(self, member: Daemon, token: str) -> None:
        await self.membership.join(member.control, token, [])

    async def change_authority(self) -> list[str]:
        async with self.cluster.lock:
            return await self.rekey.change(self.cluster.others(), why="a test")


class World:
    """Nodes a, b and c."""

    def __init__(self, base: Path) -> None:
        self.clock = Clock()
        ports = free_ports(6)
        self.all: dict[str, Daemon] = {
            name: Daemon(name, base, self.clock, ports[2 * index], ports[2 * index + 1])
            for index, name in enumerate("abc")
        }

    def __getattr__(self, name: str) -> Daemon:
        return self.all[name]

    async def restart(self, name: str) -> Daemon:
        await self.all[name].cluster.stop()
        self.all[name] = await self.all[name].again().start()
        return self.all[name]

    async def form(self, *names: str) -> None:
        for daemon in self.all.values():
            await daemon.start()
        await self.a.membership.init("east", [])
        for name in names:
            await self.all[name].join(self.a, await self.token())

    async def token(self, life: timedelta = FIFTEEN) -> str:
        return (await self.a.membership.token(life)).text

    async def healthy(self, *names: str) -> None:
        for name in names:
            report = await self.all[name].reporter.look()
            assert report.warnings == [], (name, report.warnings)
            assert [member.name for member in report.members] == list(names)


@contextlib.asynccontextmanager
async def world(base: Path) -> AsyncIterator[World]:
    made = World(base)
    try:
        yield made
    finally:
        for daemon in made.all.values():
            await daemon.cluster.stop()


def run(tmp_path: Path, body: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with world(tmp_path) as made:
            await body(made)

    asyncio.run(whole())


async def refused(call: Awaitable[Any]) -> BlockpairError:
    with pytest.raises(BlockpairError) as caught:
        await call
    assert caught.value.remedy
    return caught.value


def test_three_nodes(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        for name in "abc":
            await w.all[name].cluster.configuration.sync("a" if name != "a" else "b")
        await w.healthy("a", "b", "c")
        assert {d.trusted.node for d in w.all.values() if d.trusted} == {"a", "b", "c"}
        error = await refused(w.b.membership.init("west", []))
        assert "already" in error.message

    run(tmp_path, body)


def test_a_token_lets_one_node_in_and_not_later_than_it_says(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form()
        token = await w.token(FIFTEEN)
        w.clock.now += FIFTEEN
        error = await refused(w.b.join(w.a, token))
        assert "expired" in error.message
        token = await w.token()
        await w.b.join(w.a, token)
        assert "used already, by b" in (await refused(w.c.join(w.a, token))).message
        assert not w.c.cluster.member and w.c.cluster.store.load() is None
        assert (await refused(w.c.join(w.a, token[:-3]))).kind is ErrorKind.USAGE

    run(tmp_path, body)


def test_a_name_that_is_taken_uses_no_token_up(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form()
        token = await w.token()
        error = await refused(_request(w, token, "a"))
        assert error.kind is ErrorKind.EXISTS
        await w.b.join(w.a, token)

    async def _request(w: World, token: str, name: str) -> None:
        twin = Daemon(name, tmp_path / "twin", w.clock, *free_ports(2))
        await twin.start()
        await twin.join(w.a, token)

    run(tmp_path, body)


def test_the_token_of_another_cluster(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form()
        await w.c.membership.init("west", [])
        token = (await w.c.membership.token(FIFTEEN)).text
        assert "no such token" in (await refused(w.b.join(w.a, token))).message
        assert not w.b.cluster.member

    run(tmp_path, body)


def test_a_join_that_is_cut_off_before_its_confirmation_completes_by_itself(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form()
        confirm = w.a.cluster.methods.pop("peer.cluster.confirm")
        w.a.cluster.methods["peer.cluster.confirm"] = type(confirm)(confirm.params, _hang)
        joining = asyncio.create_task(w.b.join(w.a, await w.token()))
        await _hanging.wait()
        # As a kill: nothing that b would still do is done.
        w.b.cluster.forget = _nothing  # type: ignore[method-assign]
        joining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await joining
        await w.restart("b")
        assert (await w.b.reporter.look()).state == "joining"
        assert "b" not in w.a.cluster.content.node
        await w.restart("a")
        await w.b.membership.confirm()
        await w.healthy("a", "b")

    _hanging = asyncio.Event()

    async def _hang(_caller: str, _params: Any) -> None:
        _hanging.set()
        await asyncio.sleep(0.2)
        raise BlockpairError(ErrorKind.UNREACHABLE, "killed", "start it")

    async def _nothing() -> None:
        return None

    run(tmp_path, body)


def test_a_removed_node_is_refused_by_all_and_knows_why(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        await w.c.cluster.configuration.sync("a")
        old_authority = w.a.authority
        await w.b.cluster.stop()
        done = await w.a.removal.remove("b", lost=False)
        assert "b was not told" in done[-1]
        assert w.a.authority == w.c.authority != old_authority
        assert "b" not in w.a.cluster.content.node
        await w.b.cluster.start()
        for member in (w.a, w.c):
            error = await refused(w.b.cluster.peers.call(member.name, "peer.cluster.hello", {}, timeout=5))
            assert error.kind is ErrorKind.UNREACHABLE
            assert "removed from the cluster" in error.message
        report = await w.b.reporter.look()
        assert any("removed" in warning for warning in report.warnings)
        await w.b.removal.remove("b", lost=False)
        await w.b.join(w.a, await w.token())
        await w.c.cluster.configuration.sync("a")
        await w.healthy("a", "c", "b")

    run(tmp_path, body)


def test_a_lost_node_is_kept_a_place_that_its_successor_takes(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        entry = ResourceEntry({name: CopyEntry("/dev/r0", "internal") for name in "ab"})
        await w.a.cluster.configuration.change(
            lambda text: with_resource(text, "r0", entry), "a copy on b", Task("create", "r0")
        )
        error = await refused(w.a.removal.remove("b", lost=True))
        assert error.kind is ErrorKind.UNSAFE and "it answers" in error.message
        await w.b.cluster.stop()
        error = await refused(w.a.removal.remove("b", lost=False))
        assert error.kind is ErrorKind.IN_USE and "--lost" in error.remedy
        old_authority, place = w.a.authority, w.a.cluster.content.node["b"]
        done = await w.a.removal.remove("b", lost=True)
        assert "is kept" in done[-1]
        assert w.a.authority == w.c.authority != old_authority
        await w.c.cluster.configuration.sync("a")
        for member in (w.a, w.c):
            assert member.cluster.content.members == ["a", "c"]
            assert member.cluster.content.node["b"] == replace(place, lost=True)
            assert "b" not in member.cluster.others() + member.cluster.configuration.members
            report = await member.reporter.look()
            assert report.warnings == []
            assert [found.name for found in report.members if found.lost] == ["b"]
        assert (await refused(w.a.removal.remove("b", lost=True))).kind is ErrorKind.EXISTS
        # Only one that joins anew takes the place: not the old b, whatever it says.
        await w.b.cluster.start()
        assert (await refused(w.b.cluster.peers.call("a", "peer.cluster.confirm", {}, timeout=5))).kind is (
            ErrorKind.UNREACHABLE
        )
        await w.b.removal.remove("b", lost=True)
        await w.b.join(w.a, await w.token())
        await w.c.cluster.configuration.sync("a")
        assert w.a.cluster.content.node["b"] == place
        for name in "abc":
            assert (await w.all[name].reporter.look()).warnings == []

    run(tmp_path, body)


def test_who_shows_any_sign_of_life_is_not_lost(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        await w.b.cluster.stop()
        before = w.a.authority
        w.a.local.peers["b"] = ["r0"]
        error = await refused(w.a.removal.remove("b", lost=True))
        assert error.kind is ErrorKind.UNSAFE and "r0 replicates with it" in error.message
        w.a.local.peers.clear()
        # It lives, and its trust is not the cluster's any more, or its daemon is frozen.
        with socket.create_server((w.b.control.host, w.b.control.port)):
            error = await refused(w.a.removal.remove("b", lost=True))
        assert (
            error.kind is ErrorKind.UNSAFE and f"listens at its control port {w.b.control}" in error.message
        )
        assert w.a.authority == before and "b" in w.a.cluster.content.members
        await w.a.removal.remove("b", lost=True)
        assert list(w.a.cluster.content.node) == ["a"]

    run(tmp_path, body)


def test_a_removal_that_ends_half_way_says_so_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        await w.b.cluster.stop()
        before = w.a.authority

        async def full(*_: Any, **__: Any) -> None:
            raise BlockpairError(ErrorKind.IO, "the disk is full", "make room")

        with monkeypatch.context() as patch:
            patch.setattr(w.a.cluster.configuration, "change", full)
            error = await refused(w.a.removal.remove("b", lost=False))
        assert "b is refused from now on" in error.message and "the disk is full" in error.message
        assert "blockpair cluster remove b" in error.remedy
        assert w.a.authority == w.c.authority != before and "b" in w.a.cluster.content.members
        await w.a.removal.remove("b", lost=False)
        await w.c.cluster.configuration.sync("a")
        await w.healthy("a", "c")

    run(tmp_path, body)


async def waiting(lock: asyncio.Lock, call: Awaitable[Any]) -> asyncio.Task[Any]:
    """``call``, once what it asks of a node waits for that one's lock."""
    task = asyncio.ensure_future(call)
    async with asyncio.timeout(5):
        while not lock._waiters:  # noqa: ASYNC110 - a lock tells nobody who waits for it
            await asyncio.sleep(0.005)
    return task


def test_who_waits_for_its_turn_while_it_is_removed_is_not_taken_back(tmp_path: Path) -> None:
    """What a caller proved to the authority before is worth nothing under the one after."""

    async def body(w: World) -> None:
        await w.form("b")
        entry = to_builtins(w.a.cluster.content.node["b"])
        lock = w.a.cluster.lock
        async with lock:
            call = await waiting(lock, w.b.cluster.peers.call("a", "peer.cluster.confirm", entry, timeout=10))
            await w.a.rekey.change([], why="b is removed")
            await w.a.cluster.configuration.change(
                lambda text: without_node(text, "b"), "b was removed", Task("nodes"), without=["b"]
            )
        error = await refused(call)
        assert error.kind is ErrorKind.UNSAFE and "authority was changed" in error.message
        assert list(w.a.cluster.content.node) == ["a"]

    run(tmp_path, body)


def test_a_join_that_waits_while_the_authority_changes_gets_no_certificate(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form()
        token, lock = await w.token(), w.a.cluster.lock
        async with lock:
            call = await waiting(lock, w.b.join(w.a, token))
            await w.a.rekey.change([], why="a test")
        error = await refused(call)
        assert error.kind is ErrorKind.UNSAFE and "authority was changed" in error.message
        assert not w.b.cluster.member
        # Nor does the token of before count later.
        assert (await refused(w.b.join(w.a, token))).kind is ErrorKind.UNSAFE
        await w.b.join(w.a, await w.token())
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_nobody_joins_at_a_member_that_waits_for_the_end_of_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        await killed(w.a, monkeypatch, "stage")
        await w.a.cluster.stop()
        token = (await w.b.membership.token(FIFTEEN)).text
        assert (await refused(w.c.join(w.b, token))).kind is ErrorKind.BUSY
        assert not w.c.cluster.member
        w.all["a"] = await w.a.again().start()
        await w.a.rekey.resolve()
        await w.b.rekey.resolve()
        await w.c.join(w.b, token)
        await w.a.cluster.configuration.sync("b")
        await w.healthy("a", "b", "c")

    run(tmp_path, body)


def test_a_join_waits_for_who_changes_the_configuration_at_that_moment(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form()
        configuration = w.a.cluster.configuration
        confirmed, calls = w.a.cluster.methods["peer.cluster.confirm"], []

        async def held_twice(caller: str, params: Any) -> Any:
            calls.append(caller)
            if len(calls) == 1:
                configuration.take("a change", "a", 60)
            if len(calls) == 3:
                configuration.release("a change")
            return await confirmed.run(caller, params)

        w.a.cluster.methods["peer.cluster.confirm"] = type(confirmed)(confirmed.params, held_twice)
        await w.b.join(w.a, await w.token())
        assert calls == ["b"] * 3
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_a_lost_node_without_copies_has_no_place(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        await w.b.cluster.stop()
        await w.a.removal.remove("b", lost=True)
        assert list(w.a.cluster.content.node) == ["a"]

    run(tmp_path, body)


def test_a_successor_says_nothing_of_being_lost(tmp_path: Path) -> None:
    """What joins says where it is, and no more."""

    async def body(w: World) -> None:
        await w.form("b")
        entry = replace(w.a.cluster.content.node["b"], lost=True)
        await w.b.cluster.peers.call("a", "peer.cluster.confirm", to_builtins(entry), timeout=5)
        assert w.a.cluster.content.members == ["a", "b"]

    run(tmp_path, body)


def test_a_removal_tells_the_removed_node(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        done = await w.a.removal.remove("b", lost=False)
        assert "b was told" in done[-1]
        assert not w.b.cluster.member and w.b.trusted is None
        await w.b.join(w.a, await w.token())
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_no_removal_without_every_remaining_member(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        before = w.a.authority
        await w.c.cluster.stop()
        error = await refused(w.a.removal.remove("b", lost=False))
        assert "c did not agree" in error.message
        assert w.a.authority == w.b.authority == before
        assert w.a.cluster.store.staged() is None
        assert "b" in w.a.cluster.content.node
        assert (await refused(w.a.removal.remove("x", lost=False))).kind is ErrorKind.NOT_FOUND

    run(tmp_path, body)


def test_a_new_authority_is_taken_up_by_all(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        await w.b.cluster.configuration.sync("a")
        before = w.a.authority
        for daemon in (w.a, w.b):
            await daemon.change_authority()
            assert w.a.authority == w.b.authority == w.c.authority != before
            before = w.a.authority
        await w.healthy("a", "b", "c")
        for name in "abc":
            await w.restart(name)
        await w.healthy("a", "b", "c")

    run(tmp_path, body)


async def killed(daemon: Daemon, patch: pytest.MonkeyPatch, after: str) -> None:
    """The coordinator of a change of the authority ends there, and does nothing any more."""

    class Killed(BaseException):
        pass

    async def die(*_: Any, **__: Any) -> None:
        raise Killed

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    patch.setattr(daemon.rekey, "_undo", nothing)
    if after == "stage":
        patch.setattr(daemon.rekey, "_take_up_here", die)
    elif after == "prepare":
        patch.setattr(authority, "issue", _raise(Killed))
    else:
        patch.setattr(daemon.cluster, "reload", die)
    with pytest.raises(Killed):
        await daemon.change_authority()
    patch.undo()


def _raise(error: type[BaseException]) -> Callable[..., Any]:
    def raise_(*_: Any, **__: Any) -> None:
        raise error

    return raise_


@pytest.mark.parametrize("after", ["prepare", "stage", "commit"])
@pytest.mark.parametrize("member", ["stays", "restarts"])
def test_a_coordinator_that_is_killed_leaves_all_members_with_one_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, member: str
) -> None:
    async def body(w: World) -> None:
        await w.form("b", "c")
        await w.b.cluster.configuration.sync("a")
        before = w.a.authority
        await killed(w.a, monkeypatch, after)
        await w.a.cluster.stop()
        for name in "bc":
            if member == "restarts":
                await w.restart(name)
            assert w.all[name].authority == before
            if after != "prepare":
                # It cannot be known yet what came of it, so nothing is done.
                assert (await refused(w.all[name].rekey.resolve())).kind is ErrorKind.UNREACHABLE
                assert await w.all[name].rekey.waiting_for() == "a"
        w.all["a"] = await w.a.again().start()
        for name in "abc":
            await w.all[name].rekey.resolve()
            assert await w.all[name].rekey.waiting_for() is None
        assert (w.a.authority == before) is (after != "commit")
        assert w.a.authority == w.b.authority == w.c.authority
        await w.healthy("a", "b", "c")
        await w.b.change_authority()
        assert w.a.authority == w.b.authority == w.c.authority

    run(tmp_path, body)


def test_a_member_that_is_killed_during_a_change_stops_it_or_catches_up(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        before = w.a.authority
        stage = w.b.cluster.methods["peer.trust.stage"]

        async def staged_and_killed(caller: str, params: Any) -> Any:
            await stage.run(caller, params)
            raise BlockpairError(ErrorKind.UNREACHABLE, "killed after it was durable", "start it")

        w.b.cluster.methods["peer.trust.stage"] = type(stage)(stage.params, staged_and_killed)
        await refused(w.a.change_authority())
        await w.restart("b")
        await w.b.rekey.resolve()
        assert w.a.authority == w.b.authority == before
        assert await w.b.rekey.waiting_for() is None
        # It misses the word that it is done.
        commit = w.b.cluster.methods["peer.trust.commit"]

        async def killed_before(_caller: str, _params: Any) -> Any:
            raise BlockpairError(ErrorKind.UNREACHABLE, "killed", "start it")

        w.b.cluster.methods["peer.trust.commit"] = type(commit)(commit.params, killed_before)
        done = await w.a.change_authority()
        assert any("by itself" in line for line in done)
        assert w.b.authority == before
        await w.restart("b")
        await w.b.rekey.resolve()
        assert w.a.authority == w.b.authority != before
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_a_member_catches_up_though_the_coordinator_has_renewed_meanwhile(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        commit = w.b.cluster.methods["peer.trust.commit"]

        async def missed(_caller: str, _params: Any) -> Any:
            raise BlockpairError(ErrorKind.UNREACHABLE, "killed", "start it")

        w.b.cluster.methods["peer.trust.commit"] = type(commit)(commit.params, missed)
        await w.a.change_authority()
        async with w.a.cluster.lock:
            await w.a.rekey.renew()
        await w.b.rekey.resolve()
        assert w.a.authority == w.b.authority
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_a_clock_that_jumps_is_told_and_a_certificate_of_the_future_replaced(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        right = w.clock.now
        w.clock.now = right - timedelta(days=400)
        error = await refused(w.a.rekey.renew_if_due())
        assert "clock" in error.message and "clock" in error.remedy
        w.clock.now = right + timedelta(days=300)
        await w.a.rekey.renew_if_due()
        ahead = w.a.cluster.generation.certificate
        w.clock.now = right
        await w.a.rekey.renew_if_due()
        assert w.a.cluster.generation.certificate != ahead
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_a_certificate_is_renewed_by_itself_and_calls_go_on(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        before = w.a.cluster.generation.certificate
        await w.a.rekey.renew_if_due()
        assert w.a.cluster.generation.certificate == before
        w.clock.now += timedelta(days=250)
        await w.a.rekey.renew_if_due()
        assert w.a.cluster.generation.certificate != before
        facts = authority.inspect(w.a.cluster.generation.certificate)
        assert facts.not_after > w.clock.now + timedelta(days=360)
        assert w.a.trusted is not None
        assert w.a.trusted.certificate == w.a.cluster.generation.certificate

    run(tmp_path, body)


def test_a_control_port_that_is_taken_is_told_and_opened_later(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        await w.b.cluster.stop()
        with socket.create_server((w.b.control.host, w.b.control.port)):
            w.all["b"] = await w.b.again().start()
            # What it replicates does not need the port.
            assert w.b.cluster.member and w.b.trusted is not None
            await w.b.cluster.peers.call("a", "peer.cluster.hello", {}, timeout=5)
            await refused(w.b.cluster.recover())
            report = await w.b.reporter.look()
            assert not report.healthy and report.closed is not None and str(w.b.control) in report.closed
            assert any("no node can ask this one" in warning for warning in report.warnings)
        await w.b.cluster.recover()
        await w.healthy("a", "b")
        # A cluster is not begun, nor joined, where it cannot be opened.
        with socket.create_server((w.c.control.host, w.c.control.port)):
            assert (await refused(w.c.membership.init("west", []))).kind is ErrorKind.IO
            assert (await refused(w.c.join(w.a, await w.token()))).kind is ErrorKind.IO
        assert not w.c.cluster.member and w.c.trusted is None
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_trust_that_cannot_be_used_is_told_nothing_listens_and_it_is_taken_up_later(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        key = w.b.cluster.generation.directory / "node.key"
        key.chmod(0o644)
        await w.restart("b")
        report = await w.b.reporter.look()
        assert report.state == "failed" and report.failure is not None and "node.key" in report.failure
        assert not report.healthy
        assert w.b.cluster.control_port is None and w.b.trusted is None
        assert (await refused(w.b.cluster.peers.call("a", "peer.cluster.hello", {}, timeout=5))).kind is (
            ErrorKind.UNSAFE
        )
        await refused(w.b.cluster.recover())
        key.chmod(0o600)
        await w.b.cluster.recover()
        await w.healthy("a", "b")
        await w.restart("b")
        await w.healthy("a", "b")

    run(tmp_path, body)


@pytest.mark.parametrize("left", ["trust", "configuration"])
def test_half_a_membership_is_none_and_can_be_ended(tmp_path: Path, left: str) -> None:
    async def body(w: World) -> None:
        await w.form("b")
        if left == "trust":
            await w.b.cluster.configuration.leave()
        else:
            w.b.cluster.store.forget()
        await w.restart("b")
        assert not w.b.cluster.member
        if left == "configuration":
            assert (await w.b.reporter.look()).state == "failed"
            await w.b.removal.remove("b", lost=False)
        await w.a.removal.remove("b", lost=False)
        await w.b.join(w.a, await w.token())
        await w.healthy("a", "b")

    run(tmp_path, body)


def test_what_needs_attention_is_told() -> None:
    now = datetime(2026, 11, 25, tzinfo=UTC)

    def member(**more: Any) -> MemberReport:
        return MemberReport("b", ["10.0.0.2"], 7788, 7789, False, **{"reachable": True, **more})

    report = ClusterReport(
        node="a",
        state="joining",
        configuration="2-x",
        waits_for="c",
        authority_expires="2026-11-20T00:00:00Z",
        members=[
            member(reachable=False, why="no answer within 3 s"),
            member(configuration="1-y", certificate_expires="2026-12-20T00:00:00Z"),
            member(configuration="2-x", certificate_expires="2027-12-20T00:00:00Z"),
        ],
    )
    told = "\n".join(warnings(report, now))
    for text in ("not complete", "waits for c", "no answer", "another version", "in 25 days", "has expired"):
        assert text in told
    assert len(warnings(report, now)) == 6
