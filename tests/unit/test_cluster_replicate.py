"""One configuration on two and three nodes: partitions, refusals, and crashes at every step of a change."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockpair.cluster import store as store_module
from blockpair.cluster.change import Configuration
from blockpair.cluster.peers import NoAnswer
from blockpair.cluster.replicate import HOLD_SECONDS
from blockpair.cluster.rules import Task, with_node, with_setting
from blockpair.cluster.store import Store
from blockpair.config import files
from blockpair.config.cluster import ClusterFile, ClusterTable, NodeEntry, cluster_text
from blockpair.config.locations import locations
from blockpair.errors import BlockpairError, ErrorKind
from tests.unit.test_cluster_config import TEXT


class Crash(BaseException):
    """The node's power is cut here."""


class _Daemon:
    """What the configuration asks its daemon; ``refusal``: what its devices do not allow."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.refusal: str | None = None

    def is_up(self, name: str) -> bool:
        return name in self.up

    async def connected(self, node: str) -> list[str]:
        return []

    async def check(self, old: ClusterFile, new: ClusterFile, task: Task) -> None:
        if self.refusal is not None:
            raise BlockpairError(ErrorKind.IN_USE, self.refusal, "see to it")


class Net:
    """Nodes in one process, on disks of their own, with a network that can be cut and power that can fail."""

    def __init__(self, base: Path, nodes: str = "ab", text: str | None = None) -> None:
        self.base = base
        self.text = text if text is not None else _text(nodes)
        self.time = 0.0
        self.cut: set[frozenset[str]] = set()
        self.daemons = {node: _Daemon() for node in nodes}
        self.alive: dict[str, Configuration] = {}
        self.steps_left: int | None = None
        """Steps (calls, writes to the disk) until the power of whoever acts is cut."""
        self.acting = ""
        self.calls: list[str] = []
        self.slow: tuple[str, str] | None = None
        """A node and a method, which it takes long for."""

    async def start(self) -> None:
        for node in self.daemons:
            await self.boot(node)
        first, *others = self.alive.values()
        await first.begin(self.text, "init")
        for other in others:
            assert first.history is not None
            await other.adopt(first.history)

    async def boot(self, node: str) -> None:
        store = Store(locations(directory=str(self.base / node)), node)
        self.alive[node] = Configuration(
            node, store, _Line(self, node), self.daemons[node], clock=lambda: self.time
        )
        await self.alive[node].open()
        assert self.alive[node].failure is None

    def step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.steps_left = None
                raise Crash

    def write(self, file: Path, text: str, mode: int = 0o644) -> None:
        """In the place of `write_atomically`: the power may go before, and after."""
        counts = file.is_relative_to(self.base / self.acting)
        if counts:
            self.step()
        files.write_atomically(file, text, mode)
        if counts:
            self.step()

    async def meet(self, one: str, other: str) -> None:
        """Contact, both ways, as the daemons seek it."""
        for _ in range(2):
            for node, peer in ((one, other), (other, one)):
                if node in self.alive:
                    try:
                        await self.alive[node].sync(peer)
                    except BlockpairError as error:
                        assert error.kind is ErrorKind.UNREACHABLE

    async def act(self, node: str, doing: Coroutine[Any, Any, Any]) -> Any:
        """Have ``node`` do something; it may lose its power in it, and is gone then."""
        self.acting = node
        try:
            return await doing
        except Crash:
            self.alive.pop(node, None)
            return None
        finally:
            self.steps_left = None

    async def edit(self, node: str, value: str) -> Any:
        return await self.alive[node].change(
            lambda text: with_setting(text, f"cluster.name={value}"), f"set {value}", Task()
        )

    def head(self, node: str) -> str:
        history = self.alive[node].history
        assert history is not None
        return history.head_id


class _Line:
    """Calls, through the JSON they become."""

    def __init__(self, net: Net, caller: str) -> None:
        self._net = net
        self._caller = caller

    async def call(self, node: str, method: str, params: Any, *, timeout: float) -> Any:  # noqa: ASYNC109
        net = self._net
        net.calls.append(method)
        net.step()
        if node not in net.alive or frozenset((node, self._caller)) in net.cut:
            raise BlockpairError(ErrorKind.UNREACHABLE, f"{node} cannot be reached: it is away", "start it")
        if net.slow == (node, method):
            raise NoAnswer(ErrorKind.UNREACHABLE, f"{node} cannot be reached: no answer", "start it")
        serving = net.alive[node].methods()[method]
        given_params = msgspec.json.decode(msgspec.json.encode(params), type=serving.params)
        # What the other side does with its disk costs it no power here: this caller's is what fails.
        left, net.steps_left = net.steps_left, None
        try:
            answer = await serving.run(self._caller, given_params)
        finally:
            net.steps_left = left
        net.step()
        return msgspec.json.decode(msgspec.json.encode(answer))


def _text(nodes: str) -> str:
    entries = {node: NodeEntry([f"10.0.0.{ord(node)}"]) for node in nodes}
    return cluster_text(ClusterFile(ClusterTable("pair", "0f8b6c1e-6d6f-4b47-8d7e-0a2f0b8a3d11"), entries))


def _run(
    body: Callable[[Net], Coroutine[Any, Any, None]], nodes: str = "ab", text: str | None = None
) -> None:
    async def go(base: str) -> None:
        net = Net(Path(base), nodes, text)
        with patch.object(store_module, "write_atomically", net.write):
            await net.start()
            await body(net)

    with tempfile.TemporaryDirectory(dir=_MEMORY) as base:
        asyncio.run(go(base))


_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def test_a_change_is_on_all_nodes_when_the_command_ends() -> None:
    async def body(net: Net) -> None:
        done = await net.edit("a", "new")
        assert done.pending == {}
        assert len({net.head(node) for node in "abc"}) == 1
        for node in "abc":
            assert 'name = "new"' in (net.base / node / "config/cluster.toml").read_text()
            assert net.alive[node].seen

    _run(body, "abc")


def test_who_is_away_is_known_to_have_what_it_had() -> None:
    async def body(net: Net) -> None:
        await net.edit("a", "new")
        net.cut.add(frozenset("ab"))
        with pytest.raises(BlockpairError):
            await net.alive["a"].sync("b")
        seen = net.alive["a"].seen["b"]
        assert seen.problem is not None and seen.head == net.head("a")

    _run(body, "ab")


def test_who_is_away_catches_up() -> None:
    async def body(net: Net) -> None:
        net.cut.add(frozenset("ab"))
        done = await net.edit("a", "one")
        assert list(done.pending) == ["b"]
        await net.edit("a", "two")
        assert net.head("a") != net.head("b")
        net.cut.clear()
        await net.meet("b", "a")
        assert net.head("a") == net.head("b")
        assert (net.base / "b/config/cluster.toml").read_text() == (
            net.base / "a/config/cluster.toml"
        ).read_text()

    _run(body)


def test_a_member_that_refuses_changes_nothing_anywhere() -> None:
    async def body(net: Net) -> None:
        before = net.head("a")
        net.daemons["c"].refusal = "/dev/vg/r0 is mounted"
        with pytest.raises(BlockpairError, match="c refuses: /dev/vg/r0 is mounted") as caught:
            await net.edit("a", "new")
        assert caught.value.remedy == "see to it"
        assert {net.head(node) for node in "abc"} == {before}
        net.daemons["c"].refusal = None
        # Nobody holds still for a change that will not come.
        await net.edit("b", "other")
        assert len({net.head(node) for node in "abc"}) == 1

    _run(body, "abc")


def test_who_takes_part_and_does_not_say_in_time_is_not_taken_for_away() -> None:
    async def body(net: Net) -> None:
        before = net.head("a")
        net.slow = ("c", "peer.config.prepare")
        with pytest.raises(BlockpairError, match="c takes part, and did not say in time") as caught:
            await net.edit("a", "new")
        assert caught.value.remedy
        net.slow = None
        assert {net.head(node) for node in "abc"} == {before}
        await net.edit("a", "new")
        assert len({net.head(node) for node in "abc"}) == 1

    _run(body, "abc")


def test_two_changes_at_once_do_not_both_begin() -> None:
    async def body(net: Net) -> None:
        ends = await asyncio.gather(net.edit("a", "x"), net.edit("b", "y"), return_exceptions=True)
        failed = [end for end in ends if isinstance(end, BlockpairError)]
        assert failed
        assert all("at this moment" in end.message or "another version" in end.message for end in failed)
        await net.meet("a", "b")
        assert net.head("a") == net.head("b")

    _run(body)


def test_both_sides_changed_it_and_a_person_accepts_one() -> None:
    async def body(net: Net) -> None:
        net.cut |= {frozenset("ab"), frozenset("ac")}
        await net.edit("a", "left")
        await net.edit("b", "right")
        net.cut.clear()
        await net.meet("a", "b")
        a, b = net.alive["a"], net.alive["b"]
        assert list(a.conflicts) == ["b"]
        assert list(b.conflicts) == ["a"]
        for node in "ab":
            with pytest.raises(BlockpairError, match="nothing is merged") as caught:
                await net.edit(node, "more")
            assert caught.value.kind is ErrorKind.UNSAFE
        with pytest.raises(BlockpairError, match="has changed since"):
            await a.accept("b", "0" * 64)
        with pytest.raises(BlockpairError, match="no conflict with c"):
            await b.accept("c", "0" * 64)
        done = await a.accept("b", net.head("b"))
        assert done.pending == {}
        assert len({net.head(node) for node in "abc"}) == 1
        assert a.content is not None
        assert a.content.cluster.name == "right"
        assert not a.conflicts
        await net.meet("a", "b")
        assert not b.conflicts
        await net.edit("c", "on")
        assert len({net.head(node) for node in "abc"}) == 1

    _run(body, "abc")


def test_a_resource_that_is_up_there_does_not_go_here() -> None:
    async def body(net: Net) -> None:
        net.daemons["b"].up.add("r0")
        with pytest.raises(BlockpairError, match="b refuses: the resource r0 is up on b"):
            await net.alive["a"].change(
                lambda text: text.partition("[resource.r0]")[0], "delete r0", Task("delete", "r0")
            )
        assert net.alive["b"].shares("r0")
        assert (net.base / "a/config/resources/r0.toml").exists()

    _run(body, text=TEXT)


def test_who_is_needed_must_be_there() -> None:
    async def body(net: Net) -> None:
        net.cut.add(frozenset("ab"))
        before = net.head("a")
        with pytest.raises(BlockpairError, match="b is needed") as caught:
            await net.alive["a"].change(
                lambda text: with_setting(text, "cluster.name=x"), "x", Task(), needed=["b"]
            )
        assert caught.value.kind is ErrorKind.UNREACHABLE
        assert net.head("a") == before

    _run(body)


def test_what_fails_before_the_commit_leaves_everything_as_it_was() -> None:
    async def fail(version: object) -> None:
        raise BlockpairError(ErrorKind.IO, "no metadata could be made")

    async def body(net: Net) -> None:
        before = net.head("a")
        with pytest.raises(BlockpairError, match="no metadata"):
            await net.alive["a"].change(
                lambda text: with_setting(text, "cluster.name=x"), "x", Task(), before_commit=fail
            )
        assert (net.head("a"), net.head("b")) == (before, before)
        await net.edit("b", "on")

    _run(body)


def test_an_editor_that_dies_holds_nobody_up() -> None:
    async def body(net: Net) -> None:
        # It dies when the other has been asked, and before it has decided.
        net.steps_left = 3
        await net.act("a", net.edit("a", "lost"))
        assert "a" not in net.alive
        assert net.calls[-1] == "peer.config.prepare"
        with pytest.raises(BlockpairError, match="at this moment"):
            await net.edit("b", "mine")
        await net.boot("a")
        await net.meet("a", "b")
        await net.edit("b", "mine")
        assert net.head("a") == net.head("b")

    _run(body)


def test_an_editor_that_stays_away_holds_nobody_up_for_long() -> None:
    async def body(net: Net) -> None:
        net.steps_left = 3
        await net.act("a", net.edit("a", "lost"))
        net.time += HOLD_SECONDS + 1
        await net.edit("b", "mine")
        await net.boot("a")
        await net.meet("a", "b")
        assert net.head("a") == net.head("b")

    _run(body)


def test_a_node_without_a_history_takes_the_others() -> None:
    async def body(net: Net) -> None:
        await net.edit("a", "new")
        history = net.base / "b/state/cluster/history"
        next(history.glob("00000002-*")).write_text("{}")
        store = Store(locations(directory=str(net.base / "b")), "b")
        with pytest.raises(BlockpairError, match="cannot be read") as caught:
            store.load()
        assert caught.value.kind is ErrorKind.DAMAGED
        with pytest.raises(AssertionError):
            await net.boot("b")
        # It takes part, and what is left of its versions is not overwritten.
        assert net.alive["b"].members == ["a"]
        with pytest.raises(BlockpairError, match="cannot be read"):
            await net.alive["b"].sync("a")
        with pytest.raises(BlockpairError, match="cannot be read"):
            await net.edit("b", "x")
        history.rename(net.base / "b/away")
        await net.boot("b")
        assert net.alive["b"].history is None
        assert net.alive["b"].members == ["a"]
        await net.alive["b"].sync("a")
        assert net.head("a") == net.head("b")

    _run(body)


def test_a_node_joins_by_a_change_and_leaves() -> None:
    async def body(net: Net) -> None:
        entry = NodeEntry(["10.0.0.99"])
        await net.alive["a"].change(lambda text: with_node(text, "z", entry), "z joins", Task("nodes"))
        assert net.alive["b"].members == ["a", "z"]
        await net.alive["b"].leave()
        assert net.alive["b"].history is None
        assert not (net.base / "b/config/cluster.toml").exists()
        with pytest.raises(BlockpairError, match="in no cluster"):
            await net.edit("b", "x")
        await net.boot("b")
        assert net.alive["b"].history is None

    _run(body)


_ACTION = st.one_of(
    st.tuples(st.just("edit"), st.integers(0, 2), st.none() | st.integers(0, 30)),
    st.tuples(st.sampled_from(["cut", "heal", "meet"]), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.sampled_from(["boot", "wait"]), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("accept"), st.integers(0, 2), st.integers(0, 2)),
)


@settings(max_examples=150, deadline=None)
@given(nodes=st.sampled_from(["ab", "abc"]), actions=st.lists(_ACTION, max_size=14))
def test_equal_or_in_conflict_after_contact_whatever_happened(
    nodes: str, actions: list[tuple[str, int, int | None]]
) -> None:
    async def body(net: Net) -> None:
        committed: set[str] = set()
        given_up: set[str] = set()
        for number, (what, one, other) in enumerate(actions):
            node, peer = nodes[one % len(nodes)], nodes[(other or 0) % len(nodes)]
            if what == "edit":
                if node in net.alive:
                    committed |= await _edit(net, node, f"n{number}", other)
            elif what == "accept":
                if node in net.alive and peer in net.alive[node].conflicts:
                    given_up |= await _accept(net, node, peer)
            else:
                await _befall(net, what, node, peer)
            _check_halves(net)
        await _settle(net, nodes)
        _check_heads(net, nodes)
        held = {version_id for node in nodes for version_id in _ids(net, node)}
        assert committed - given_up <= held
        # A person who accepts one side ends it.
        for _ in range(3):
            for node in nodes:
                for peer in list(net.alive[node].conflicts):
                    # What was accepted from one node may have ended the conflict with another.
                    if peer in net.alive[node].conflicts:
                        given_up |= await _accept(net, node, peer)
                        await _settle(net, nodes)
        assert len({net.head(node) for node in nodes}) == 1
        assert committed - given_up <= set(_ids(net, nodes[0]))

    _run(body, nodes)


async def _edit(net: Net, node: str, value: str, steps: int | None) -> set[str]:
    """Edit, with power for so many steps; the version, if the command said that it was made."""
    net.steps_left = steps
    try:
        done = await net.act(node, net.edit(node, value))
    except BlockpairError as error:
        assert "at this moment" in error.message or error.kind is ErrorKind.UNSAFE, error.message
        return set()
    return set() if done is None else {done.version.id()}


async def _befall(net: Net, what: str, node: str, peer: str) -> None:
    if what == "boot" and node not in net.alive:
        await net.boot(node)
    elif what == "wait":
        net.time += HOLD_SECONDS + 1
    elif what in ("cut", "heal") and node != peer:
        (net.cut.add if what == "cut" else net.cut.discard)(frozenset((node, peer)))
    elif what == "meet" and node != peer:
        await net.meet(node, peer)


async def _accept(net: Net, node: str, peer: str) -> set[str]:
    """Accept what is shown; the versions that are given up."""
    configuration = net.alive[node]
    ours, theirs = configuration.history, configuration.conflicts[peer]
    assert ours is not None
    try:
        await configuration.accept(peer, theirs.head_id)
    except BlockpairError as error:
        assert error.kind in (ErrorKind.UNREACHABLE, ErrorKind.UNSAFE, ErrorKind.NOT_FOUND, ErrorKind.FAILED)
        return set()
    return set(ours.ids) - theirs.known


async def _settle(net: Net, nodes: str) -> None:
    net.cut.clear()
    net.time += HOLD_SECONDS + 1
    for node in nodes:
        if node not in net.alive:
            await net.boot(node)
    for _ in nodes:
        for one, other in (("a", "b"), ("b", "c"), ("a", "c")):
            if one in nodes and other in nodes:
                await net.meet(one, other)


def _ids(net: Net, node: str) -> tuple[str, ...]:
    history = net.alive[node].history
    assert history is not None
    return history.ids


def _check_heads(net: Net, nodes: str) -> None:
    """After contact: two heads are the same, or the conflict is known on both sides."""
    for one in nodes:
        for other in nodes:
            equal = net.head(one) == net.head(other)
            assert equal != (other in net.alive[one].conflicts)


def _check_halves(net: Net) -> None:
    """The file that people read is a whole version, and that of the history."""
    for node, configuration in net.alive.items():
        assert configuration.history is not None
        text = (net.base / node / "config/cluster.toml").read_text()
        assert text == configuration.history.head.text


@pytest.mark.parametrize("step", range(16))
def test_a_crash_at_any_step_of_a_change_leaves_the_old_version_or_the_new(step: int) -> None:
    """Before and after every call and every write to the disk of the editor."""

    async def body(net: Net) -> None:
        before = net.head("a")
        net.steps_left = step
        done = await net.act("a", net.edit("a", "new"))
        assert (done is None) == ("a" not in net.alive)
        if done is None:
            await net.boot("a")
        history = net.alive["a"].history
        assert history is not None
        assert history.head_id == before or history.head.why == "set new"
        assert (net.base / "a/config/cluster.toml").read_text() == history.head.text
        assert net.alive["a"].problems == []
        await net.meet("a", "b")
        assert net.head("a") == net.head("b")
        assert not net.alive["a"].conflicts
        await net.edit("b", "later")

    _run(body)
