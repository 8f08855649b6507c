"""The daemon's audits: carries out what `blockpair.audit.decide` says, one in the cluster at a time. An audit
is the work of the call that asked for it: when its caller hangs up, it stops where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from blockpair.audit.decide import Audit, End, Seen, Start, Step, Stop, Wait, refused, step
from blockpair.audit.lock import Lock
from blockpair.audit.outcome import SCHEMA, AuditRecord, AuditReport, Code, verdict
from blockpair.audit.standing import copies, obstacles
from blockpair.audit.store import load, save
from blockpair.checks.finding import Examination
from blockpair.cluster.cluster import Cluster
from blockpair.cluster.server import PeerMethod
from blockpair.daemon.checks import Checks
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid.inventory import Inventory
from blockpair.raid.model import Array
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method
from blockpair.status.report import StatusReport
from blockpair.units import counted, utc
from blockpair.verify.messages import VerifyReport

_CLAIM, _RELEASE = "peer.audit.claim", "peer.audit.release"
_LOOK_SECONDS = 0.5
# Shorter than a lock lasts by far, and than anybody minds waiting beside a resync that has just begun.
_ASK_SECONDS = 5.0
_CALL_SECONDS = 3.0
_LEVELS = {
    Code.IDENTICAL: "info",
    Code.NOT_RUN: "warning",
    Code.DIFFERENCES: "error",
    Code.UNFINISHED: "info",
}
_WORDS = {
    Code.IDENTICAL: "every copy that this node leads is identical",
    Code.NOT_RUN: "not every resource could be compared",
    Code.DIFFERENCES: "copies differ",
    Code.UNFINISHED: "not everything was compared in time",
}


class RunParams(Struct, forbid_unknown_fields=True):
    """``max_seconds``: null, however long it takes; ``max_rate``: bytes a second, null: as fast as the
    applications allow.
    """

    max_seconds: float | None = None
    max_rate: int | None = None


class HoldParams(Struct, forbid_unknown_fields=True):
    """Which audit of the caller, by a word of its own."""

    audit: str


class Claimed(Struct, frozen=True):
    """``holder``: whose audit has the lock, null: the caller's; ``obstacles``: why nothing should be compared
    now, on this node.
    """

    holder: str | None
    obstacles: list[str]


class Audits:
    """For one node."""

    def __init__(self, manager: Manager, cluster: Cluster, checks: Checks) -> None:
        self._manager = manager
        self._cluster = cluster
        self._checks = checks
        self._node = manager.node.name
        self._lock = Lock(time.monotonic)
        self._inventory = Inventory()
        self._log = structlog.get_logger().bind(part="audit")
        cluster.methods.update(
            {
                _CLAIM: PeerMethod(HoldParams, self._claimed_by),
                _RELEASE: PeerMethod(HoldParams, self._released_by),
            }
        )

    def methods(self) -> dict[str, Method]:
        """What the daemon's socket offers of it."""

        async def run(_caller: Caller, params: RunParams) -> AuditRecord:
            return await self.run(params)

        async def report(_caller: Caller, _params: NoParams) -> AuditReport:
            return await self.report()

        return {
            "audit.run": Method(RunParams, run, interruptible=True),
            "audit.report": Method(NoParams, report, interruptible=True, read_only=True),
        }

    async def run(self, params: RunParams) -> AuditRecord:
        """Compare every resource that this node leads, and run the checks."""
        word, began = secrets.token_hex(8), datetime.now(UTC)
        loop = asyncio.get_running_loop()
        deadline = None if params.max_seconds is None else loop.time() + params.max_seconds
        self._log.info("audit.started", text="every copy is compared that this node leads")
        audit = Audit(self._node, deadline, frozenset(self._manager.names()))
        try:
            audit = await self._compare(audit, word, params.max_rate)
        finally:
            # Also when the caller has hung up, which ends this task.
            await self._let_go(word)
        examination = await self._checks.examine()
        return await self._keep(audit, began, examination)

    async def last(self) -> AuditRecord | None:
        """The last audit of this node that ended. Raises `BlockpairError`."""
        return await asyncio.to_thread(load, self._manager.places.audit_file)

    async def report(self) -> AuditReport:
        """What is known now, whether an audit ever ran or not."""
        examination, last, verified = await asyncio.gather(
            self._checks.examine(),
            self.last(),
            asyncio.gather(*map(self._verified, self._manager.names())),
        )
        known = [report for report in verified if report is not None]
        return AuditReport(SCHEMA, self._node, utc(datetime.now(UTC), "seconds"), last, known, examination)

    async def _compare(self, audit: Audit, word: str, max_rate: int | None) -> Audit:
        loop = asyncio.get_running_loop()
        asked, kept = float("-inf"), list[str]()
        told = ""
        try:
            while True:
                if loop.time() - asked >= _ASK_SECONDS:
                    kept, asked = await self._hindrances(word), loop.time()
                audit, doing = step(audit, Seen(await self._resources(), kept), loop.time())
                if isinstance(doing, End):
                    return audit
                if isinstance(doing, Wait) and doing.why != told:
                    told = doing.why
                    if told:
                        self._log.info("audit.waits", text=told)
                audit = await self._do(audit, doing, max_rate)
        finally:
            if audit.current is not None:
                with contextlib.suppress(BlockpairError):
                    await self._stop(audit.current)

    async def _do(self, audit: Audit, doing: Step, max_rate: int | None) -> Audit:
        match doing:
            case Start(name):
                try:
                    async with self._manager.verifying(name) as (verifying, status):
                        await verifying.start(status, offset=None, length=None, max_rate=max_rate)
                except BlockpairError as error:
                    if error.kind is ErrorKind.BUSY:
                        # Somebody was quicker: it is waited for.
                        return replace(audit, current=None)
                    return refused(audit, name, error.message)
            case Stop(name):
                with contextlib.suppress(BlockpairError):
                    await self._stop(name)
            case _:
                await asyncio.sleep(_LOOK_SECONDS)
        return audit

    async def _stop(self, name: str) -> None:
        async with self._manager.verifying(name) as (verifying, _):
            await verifying.stop()

    async def _resources(self) -> dict[str, Any]:
        status = await self._manager.status()
        return {
            resource.name: copies(self._node, resource, await self._verified(resource.name))
            for resource in status.resources
        }

    async def _verified(self, name: str) -> VerifyReport | None:
        try:
            return await self._manager.verify_report(name)
        except BlockpairError:
            # Nothing was ever compared, or it has just been deleted.
            return None

    async def _own_obstacles(self) -> list[str]:
        status: StatusReport = await self._manager.status()
        try:
            arrays: list[Array] = list((await asyncio.to_thread(self._inventory.arrays)).values())
        except BlockpairError:
            # The checks tell of arrays that cannot be looked at.
            arrays = []
        return list(obstacles(self._node, status.resources, arrays))

    async def _hindrances(self, word: str) -> list[str]:
        """Have the lock of every node that can be reached; why nothing may be compared now."""
        found: list[str] = []
        others = self._cluster.others() if self._cluster.member else []
        for node in sorted([self._node, *others]):
            claimed = await self._claim(node, word)
            if claimed is None:
                # Nothing is compared with it either.
                continue
            found += claimed.obstacles
            if claimed.holder is not None:
                await self._let_go(word)
                return [f"an audit of {claimed.holder} is under way"]
        return found

    async def _claim(self, node: str, word: str) -> Claimed | None:
        if node == self._node:
            return await self._claimed_by(node, HoldParams(word))
        try:
            answer = await self._cluster.peers.call(node, _CLAIM, HoldParams(word), timeout=_CALL_SECONDS)
            return msgspec.convert(answer, Claimed)
        except (BlockpairError, msgspec.ValidationError):
            return None

    async def _let_go(self, word: str) -> None:
        self._lock.release(self._node, word)
        others = self._cluster.others() if self._cluster.member else []
        await self._cluster.call_all(others, _RELEASE, lambda _: HoldParams(word), timeout=_CALL_SECONDS)

    async def _claimed_by(self, caller: str, params: HoldParams) -> Claimed:
        holder = self._lock.claim(caller, params.audit)
        return Claimed(holder, [] if holder is not None else await self._own_obstacles())

    async def _released_by(self, caller: str, params: HoldParams) -> None:
        self._lock.release(caller, params.audit)

    async def _keep(self, audit: Audit, began: datetime, examination: Examination) -> AuditRecord:
        code = verdict(audit.results)
        severities = [finding.severity for finding in examination.findings]
        record = AuditRecord(
            SCHEMA,
            self._node,
            utc(began, "seconds"),
            utc(datetime.now(UTC), "seconds"),
            int(code),
            sorted(audit.results, key=lambda result: result.name),
            errors=severities.count("error"),
            warnings=severities.count("warning"),
        )
        text = _WORDS[code]
        level = _LEVELS[code]
        if record.errors:
            text += f"; the checks found {counted(record.errors, 'error')}"
            level = "error"
        getattr(self._log, level)("audit.finished", text=text)
        try:
            await asyncio.to_thread(save, self._manager.places.audit_file, record)
        except OSError as error:
            self._log.error("audit.not-kept", text=f"{self._manager.places.audit_file}: {error.strerror}")
        return record
