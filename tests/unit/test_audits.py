"""The daemon's audits over two nodes that share nothing but their control ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from blockpair.audit.outcome import AuditRecord
from blockpair.audit.store import load
from blockpair.checks.finding import Examination, Finding
from blockpair.cluster.cluster import Cluster
from blockpair.daemon.audits import Audits, RunParams
from blockpair.daemon.checks import Checks
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid.inventory import Inventory
from blockpair.status.engine import EngineStatus
from blockpair.status.report import KernelDeviceStatus, ResourceReport
from blockpair.verify.messages import VerifyReport
from blockpair.verify.record import begin, end, fresh, proved
from tests.unit.status_samples import engine, peer, resync

SIZE = 8 << 20


class Copies:
    """A resource whose comparison ends when a test says so."""

    def __init__(self, name: str, state: EngineStatus) -> None:
        self.name = name
        self.state = state
        self.record = fresh("1" * 32, SIZE)
        self.starts = 0
        self.refuses: BlockpairError | None = None
        self.begun, self.stopped, self.asked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def start(self, _status: object, *, offset: None, length: None, max_rate: int | None) -> None:
        self.asked.set()
        if self.refuses is not None:
            raise self.refuses
        self.record = begin(self.record, offset=offset, length=length, max_rate=max_rate, now=1)
        self.starts += 1
        self.begun.set()

    async def stop(self) -> None:
        if self.running:
            self.record = end(self.record, "stopped", "by command", 2)
            self.stopped.set()

    def finish(self) -> None:
        """All of it was the same."""
        self.record = end(proved(self.record, 0, SIZE, 3), None, None, 3)

    @property
    def running(self) -> bool:
        return self.record.wanted is not None

    def verified(self) -> VerifyReport:
        known, run = self.record, self.record.run
        done, total = (0, 0) if run is None else (run.done, run.length)
        return VerifyReport(
            self.name,
            known.size,
            known.region_bytes,
            known.proved,
            known.findings,
            self.running,
            done,
            total,
            known.ended,
            known.reason,
        )


class Machine:
    """A node: what its audits see of the daemon, and their control port."""

    def __init__(self, name: str, folder: Path, *resources: Copies) -> None:
        self.node = SimpleNamespace(name=name)
        self.places = SimpleNamespace(audit_file=folder / name / "last.json")
        self.resources = {each.name: each for each in resources}
        self.methods: dict[str, Any] = {}
        self.others_known: dict[str, Machine] = {}
        self.member = True
        self.peers = self
        self.findings: list[Finding] = []
        self.audits = Audits(cast(Manager, self), cast(Cluster, self), cast(Checks, self))

    def names(self) -> list[str]:
        return sorted(self.resources)

    async def status(self) -> Any:
        device = KernelDeviceStatus(attached=False)
        found = [
            ResourceReport(name, "running", None, True, "/d", "internal", [], None, device, one.state, [], [])
            for name, one in self.resources.items()
        ]
        return SimpleNamespace(resources=found)

    @contextlib.asynccontextmanager
    async def verifying(self, name: str) -> AsyncIterator[tuple[Copies, EngineStatus]]:
        yield self.resources[name], self.resources[name].state

    async def verify_report(self, name: str) -> VerifyReport:
        return self.resources[name].verified()

    async def examine(self) -> Examination:
        return Examination("blockpair.checks/1", self.node.name, "1", "", True, "ok", self.findings)

    def others(self) -> list[str]:
        return list(self.others_known)

    async def call(self, node: str, method: str, params: Any, **_: float) -> Any:
        other = self.others_known[node].methods[method]
        given = msgspec.convert(msgspec.to_builtins(params), other.params)
        return msgspec.to_builtins(await other.run(self.node.name, given))

    async def call_all(
        self, nodes: list[str], method: str, params: Callable[[str], Any], **_: float
    ) -> dict[str, Any]:
        return {node: await self.call(node, method, params(node)) for node in nodes}


def pair(folder: Path) -> tuple[Machine, Machine]:
    """a leads r0 and r1, b leads r2."""
    a = Machine("a", folder, Copies("r0", engine()), Copies("r1", engine()))
    b = Machine("b", folder, Copies("r2", engine(peer(name="a"), node="b")))
    a.others_known, b.others_known = {"b": b}, {"a": a}
    return a, b


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has arrays, nor waits for long."""
    monkeypatch.setattr(Inventory, "arrays", lambda _: {})
    monkeypatch.setattr("blockpair.daemon.audits._LOOK_SECONDS", 0.001)
    monkeypatch.setattr("blockpair.daemon.audits._ASK_SECONDS", 0.0)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await body()

    asyncio.run(bounded())


async def audit(node: Machine, **params: Any) -> AuditRecord:
    return await node.audits.run(RunParams(**params))


def test_every_resource_is_compared_and_what_came_of_it_is_kept(tmp_path: Path) -> None:
    async def body() -> None:
        a, _ = pair(tmp_path)
        a.findings = [Finding("port", "b", "error", "closed")]
        work = asyncio.create_task(audit(a, max_rate=1000))
        for name in ("r0", "r1"):
            copies = a.resources[name]
            await copies.begun.wait()
            assert [one.name for one in a.resources.values() if one.running] == [name]
            assert copies.record.run is not None and copies.record.run.max_rate == 1000
            copies.finish()
        record = await work
        assert [(each.name, each.outcome) for each in record.results] == [
            ("r0", "identical"),
            ("r1", "identical"),
        ]
        assert (record.code, record.errors) == (0, 1)
        assert await a.audits.last() == record == load(a.places.audit_file)

    with capture_logs() as logs:
        run(body)
    [ended] = [entry for entry in logs if entry["event"] == "audit.finished"]
    # What the checks found is heard, however identical the copies are.
    assert ended["log_level"] == "error" and "1 error" in ended["text"]


def test_one_audit_at_a_time_in_the_cluster(tmp_path: Path) -> None:
    async def body() -> None:
        a, b = pair(tmp_path)
        first = asyncio.create_task(audit(a))
        await a.resources["r0"].begun.wait()
        second = await audit(b, max_seconds=0.1)
        assert (second.code, second.results[0].outcome) == (4, "unfinished")
        assert b.resources["r2"].starts == 0
        waiting = asyncio.create_task(audit(b))
        a.resources["r0"].finish()
        await a.resources["r1"].begun.wait()
        assert b.resources["r2"].starts == 0
        a.resources["r1"].finish()
        assert (await first).code == 0
        await b.resources["r2"].begun.wait()
        b.resources["r2"].finish()
        assert (await waiting).code == 0

    run(body)


def test_who_hangs_up_ends_it_and_the_next_goes_on(tmp_path: Path) -> None:
    async def body() -> None:
        a, b = pair(tmp_path)
        work = asyncio.create_task(audit(a))
        copies = a.resources["r0"]
        await copies.begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert not copies.running and copies.record.ended == "stopped"
        # The lock is free on both nodes.
        theirs = asyncio.create_task(audit(b))
        await b.resources["r2"].begun.wait()
        b.resources["r2"].finish()
        assert (await theirs).code == 0

    run(body)


def test_never_beside_a_resync_on_either_node(tmp_path: Path) -> None:
    async def body() -> None:
        a, b = pair(tmp_path)
        busy, idle = engine(peer(name="a", resync=resync()), node="b"), b.resources["r2"].state
        b.resources["r2"].state = busy
        assert (await audit(a, max_seconds=0.05)).code == 4
        assert a.resources["r0"].starts == 0
        b.resources["r2"].state = idle
        work = asyncio.create_task(audit(a))
        copies = a.resources["r0"]
        await copies.begun.wait()
        b.resources["r2"].state = busy
        copies.begun.clear()
        await copies.stopped.wait()
        b.resources["r2"].state = idle
        await copies.begun.wait()
        copies.finish()
        await a.resources["r1"].begun.wait()
        a.resources["r1"].finish()
        assert ((await work).code, copies.starts) == (0, 2)

    run(body)


def test_what_is_refused_fails_and_what_is_busy_is_waited_for(tmp_path: Path) -> None:
    async def body() -> None:
        a, _ = pair(tmp_path)
        first, second = a.resources["r0"], a.resources["r1"]
        first.refuses = BlockpairError(ErrorKind.FAILED, "no data yet")
        second.refuses = BlockpairError(ErrorKind.BUSY, "it is being compared already")
        work = asyncio.create_task(audit(a))
        await second.asked.wait()
        second.asked.clear()
        # It is tried again, and again.
        await second.asked.wait()
        second.refuses = None
        await second.begun.wait()
        second.finish()
        record = await work
        assert (record.code, record.results[0].why) == (1, "no data yet")

    run(body)


def test_a_member_that_cannot_be_reached_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        a, _ = pair(tmp_path)

        async def away(*_: object, **__: object) -> None:
            raise BlockpairError(ErrorKind.UNREACHABLE, "b cannot be reached")

        async def nobody(*_: object, **__: object) -> dict[str, Any]:
            return {"b": BlockpairError(ErrorKind.UNREACHABLE, "b cannot be reached")}

        monkeypatch.setattr(a, "call", away)
        monkeypatch.setattr(a, "call_all", nobody)
        work = asyncio.create_task(audit(a))
        for name in ("r0", "r1"):
            await a.resources[name].begun.wait()
            a.resources[name].finish()
        assert (await work).code == 0

    run(body)
