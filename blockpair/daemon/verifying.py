"""A resource's comparison of both copies: what was asked for goes on until its end, what it shows is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from blockpair.blocks import runs_of
from blockpair.bridge import Shown
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import EngineStatus
from blockpair.status.report import VerifyStatus
from blockpair.units import counted, format_size
from blockpair.verify import record as records
from blockpair.verify import store
from blockpair.verify.messages import VerifyReport
from blockpair.verify.record import Finding, Record, Run

# What was proved is written down at least this often; a crash repeats that much.
_SAVE_SECONDS = 5.0
# After this long what was cut is tried again.
_RETRY_SECONDS = 1.0
# Blocks of one repair: the engine takes no more at a time.
_REPAIRED_AT_ONCE = 4096

Call = Callable[..., Awaitable[None]]


class Verifying:
    """``call``: a command for the engine; ``shown``: what it has shown since it was asked last; ``note``:
    something that happened, as severity, kind and text. All but `look`, `repair`, `report` and `status` are
    called with the resource's lock held.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        call: Call,
        shown: Callable[[], Sequence[Shown]],
        note: Callable[[str, str, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._file = file
        self._call = call
        self._shown = shown
        self._note = note
        self._clock = clock
        self._wall = wall
        self._record: Record | None = None
        # Shown before it was known of which data.
        self._early: list[Shown] = []
        self._damaged: BlockpairError | None = None
        self._loaded = False
        self._saved: Record | None = None
        self._saved_at = 0.0
        # The engine compares for us now.
        self._compares = False
        self._retry_at = 0.0
        # Why it does not, while it shall.
        self._waits_for: str | None = None
        self._new_findings = 0
        self._log = structlog.get_logger().bind(resource=name)

    def _now(self) -> int:
        return int(self._wall())

    # ---- what the engine shows -------------------------------------------------------------------------

    def look(self) -> None:
        """Take in what the engine has shown."""
        self._take(self._shown())

    def _take(self, shown: Sequence[Shown]) -> None:
        if self._record is None:
            self._early += shown
            return
        for each in shown:
            self._record = self._taken(self._record, each)

    def _taken(self, record: Record, shown: Shown) -> Record:
        now = self._now()
        match shown.what:
            case "proved":
                return records.proved(record, shown.offset, shown.length, now)
            case "skipped":
                return records.skipped(record, shown.offset, shown.length)
            case "found":
                block = Finding(shown.offset, shown.length, shown.own, shown.peer, now)
                self._new_findings += 1
                return records.found(record, block)
            case _:
                return self._engine_ended(record, shown)

    def _engine_ended(self, record: Record, shown: Shown) -> Record:
        self._compares = False
        run = record.wanted
        if run is None:
            return record
        if shown.why is None:
            return record if run.rest(record.size) is not None else self._ended(record, None)
        if shown.passing:
            self._retry_at = self._clock() + _RETRY_SECONDS
            self._waits_for = shown.why
            return records.interrupted(record)
        return self._ended(record, shown.why)

    def _ended(self, record: Record, failure: str | None) -> Record:
        """The run is at its end, or has failed; who follows the events hears how."""
        record = records.end(record, None if failure is None else "failed", failure, self._now())
        run = record.run
        assert run is not None
        compared = format_size(run.done)
        if failure is not None:
            self._note("warning", "verify.failed", f"after {compared}: {failure}")
        elif record.ended == "differences":
            there = [f for f in record.open_findings if records.within(f, run, record.size)]
            blocks = counted(len(there), "block")
            self._note("error", "verify.finished", f"{compared} compared: differences in {blocks}")
        else:
            but = f", {record.reason}" if record.reason else ""
            self._note("info", "verify.finished", f"{compared} compared: identical{but}")
        return record

    # ---- keeping it ------------------------------------------------------------------------------------

    async def keep(self, status: EngineStatus) -> None:
        """Have what was asked for go on, and what was shown written down."""
        if status.resource_id is None or status.state != "running":
            return
        await self._know(status.resource_id, status.size_bytes)
        if self._record is None:
            return
        if self._new_findings:
            self._tell_findings(self._record)
        run = self._record.wanted
        if run is not None and not self._compares and self._clock() >= self._retry_at:
            await self._go_on(self._record, run, status)
        await self._save()

    def _tell_findings(self, record: Record) -> None:
        self._new_findings = 0
        found = record.open_findings
        if found:
            first = found[0]
            blocks = counted(len(found), "block")
            text = f"both copies differ in {blocks}, the first at byte {first.offset}"
            self._note("error", "verify.found", text)

    async def _know(self, resource_id: str, size: int) -> None:
        """Have the record of these data; that of others is gone with them."""
        if not self._loaded:
            try:
                self._record = self._saved = await asyncio.to_thread(store.load, self._file)
                self._loaded = True
                self._damaged = None
            except BlockpairError as error:
                if self._damaged is None:
                    self._log.warning("verify.record-unreadable", text=error.message)
                self._damaged = error
                self._record = None
                return
            if self._record is not None:
                self._record = records.interrupted(self._record)
        record = self._record
        if record is None or (record.resource_id, record.size) != (resource_id, size):
            self._record = records.fresh(resource_id, size)
        early, self._early = self._early, []
        self._take(early)

    async def _go_on(self, record: Record, run: Run, status: EngineStatus) -> None:
        leads, rest = _leader(status), run.rest(record.size)
        if leads is not None:
            reason = f"{leads} is Primary now: go on there"
            self._record = records.end(record, "stopped", reason, self._now())
            self._note("warning", "verify.stopped", reason)
        elif rest is None:
            self._record = self._ended(record, None)
        else:
            try:
                await self._compare(rest, run.max_rate)
            except BlockpairError as error:
                self._waits_for = error.message
                self._retry_at = self._clock() + _RETRY_SECONDS

    async def _compare(self, part: tuple[int, int], max_rate: int | None) -> None:
        offset, length = part
        # First: its end may be shown before its begin is answered.
        self._compares, self._waits_for = True, None
        try:
            await self._call("verify", offset=offset, length=length, max_rate=max_rate)
        except BaseException:
            self._compares = False
            raise

    async def _save(self, *, at_once: bool = False) -> None:
        record, saved = self._record, self._saved
        if record is None or record == saved:
            return
        same = saved is not None and (record.findings, record.ended) == (saved.findings, saved.ended)
        if same and not at_once and self._clock() < self._saved_at + _SAVE_SECONDS:
            return
        self._saved_at = self._clock()
        try:
            await asyncio.to_thread(store.save, self._file, record)
        except OSError as error:
            self._log.error("verify.record-not-written", text=f"{self._file}: {error.strerror}")
            return
        self._saved = record

    async def close(self) -> None:
        """The engine ends: a run that has not ended goes on with the next one."""
        self.look()
        self._compares = False
        if self._record is not None:
            self._record = records.interrupted(self._record)
            await self._save(at_once=True)

    # ---- what is asked ---------------------------------------------------------------------------------

    async def start(
        self, status: EngineStatus, *, offset: int | None, length: int | None, max_rate: int | None
    ) -> None:
        """Begin to compare. Raises `BlockpairError`, and then nothing has begun."""
        record = await self._usable(status)
        check_range(record.size, offset, length, max_rate)
        leads = _leader(status)
        if leads is not None:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{leads} is Primary: the order of the writes is its own, and so is the comparison",
                f"on {leads}: {_as_command(self._name, offset, length, max_rate)}",
            )
        if record.wanted is not None:
            raise BlockpairError(
                ErrorKind.BUSY,
                f"{self._name} is being compared already" + self._waiting(),
                f"follow it: blockpair verify {self._name} --wait; or end it: "
                f"blockpair verify {self._name} --stop",
            )
        # The end of the one before must not be taken for the end of this one.
        self.look()
        record = self._existing()
        if offset is not None or length is not None:
            offset, length = aligned(offset or 0, length, status.block_size_bytes, record.size)
        begun = records.begin(record, offset=offset, length=length, max_rate=max_rate, now=self._now())
        run = begun.run
        rest = None if run is None else run.rest(record.size)
        assert rest is not None, "a new run has something to do"
        before, self._record = self._record, begun
        try:
            await self._compare(rest, max_rate)
        except BaseException:
            self._record = before
            raise
        self._note("info", "verify.started", f"comparing both copies, from byte {rest[0]} on")
        await self._save(at_once=True)

    def _waiting(self) -> str:
        return "" if self._waits_for is None else f" (it waits: {self._waits_for})"

    async def stop(self) -> None:
        """End what was asked for; nothing where there is nothing. Raises `BlockpairError`."""
        record = self._record
        if record is None or record.wanted is None:
            return
        self._record = records.end(record, "stopped", "by command", self._now())
        if self._compares:
            await self._call("verify_stop")
        self._note("info", "verify.stopped", "by command")
        await self._save(at_once=True)

    async def waive(self, offsets: Sequence[int]) -> int:
        """These findings may be so: nobody is troubled by them any more. How many there were. Raises
        `BlockpairError`.
        """
        record = self._existing()
        chosen = self._chosen(record, offsets)
        wanted = {finding.offset for finding in chosen}
        self._record = records.waived(record, lambda finding: finding.offset in wanted, self._now())
        self._note(
            "warning",
            "verify.waived",
            f"both copies may differ in {counted(len(chosen), 'block')}, by command",
        )
        await self._save(at_once=True)
        return len(chosen)

    async def repair(self, status: EngineStatus, offsets: Sequence[int]) -> int:
        """Overwrite these findings on the Secondary with this Primary's blocks, saved in a bundle there
        first; how many. Raises `BlockpairError`.
        """
        record = await self._usable(status)
        if record.wanted is not None:
            raise BlockpairError(
                ErrorKind.BUSY,
                f"{self._name} is being compared" + self._waiting(),
                f"let it end, or end it: blockpair verify {self._name} --stop",
            )
        chosen = self._chosen(record, offsets)
        size = status.block_size_bytes
        for first in range(0, len(chosen), _REPAIRED_AT_ONCE):
            part = chosen[first : first + _REPAIRED_AT_ONCE]
            runs = runs_of([finding.offset // size for finding in part])
            await self._call("repair", runs=runs)
        self.look()
        self._note(
            "warning",
            "verify.repaired",
            f"{counted(len(chosen), 'block')} of the Secondary overwritten with those of {status.node}",
        )
        await self._save(at_once=True)
        return len(chosen)

    def _chosen(self, record: Record, offsets: Sequence[int]) -> list[Finding]:
        wanted = set(offsets)
        chosen = [finding for finding in record.open_findings if finding.offset in wanted]
        unknown = wanted - {finding.offset for finding in chosen}
        if unknown or not chosen:
            which = (
                f"the block at byte {min(unknown)} is no open finding"
                if unknown
                else "there is none to choose"
            )
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{self._name}: {which}",
                f"see what was found: blockpair verify {self._name} --report",
            )
        return chosen

    async def _usable(self, status: EngineStatus) -> Record:
        if status.resource_id is not None:
            await self._know(status.resource_id, status.size_bytes)
        return self._existing()

    def _existing(self) -> Record:
        if self._record is not None:
            return self._record
        if self._damaged is not None:
            raise self._damaged
        raise BlockpairError(
            ErrorKind.FAILED,
            f"{self._name} has no data yet that could be compared",
            f"blockpair status {self._name}",
        )

    # ---- what is told ----------------------------------------------------------------------------------

    def report(self) -> VerifyReport:
        """All that is known. Raises `BlockpairError` where nothing can be."""
        return report_of(self._name, self._existing(), self._waits_for)

    def status(self) -> VerifyStatus | None:
        """The same in a few numbers; None where nothing was ever compared."""
        record = self._record
        if record is None or (record.run is None and not any(record.proved) and not record.findings):
            return None
        proof = records.proof(record)
        told = report_of(self._name, record, self._waits_for)
        return VerifyStatus(
            running=told.running,
            done_bytes=told.done_bytes,
            total_bytes=told.total_bytes,
            ended=told.ended,
            reason=told.reason,
            ended_at=told.ended_at,
            proved_share=proof.share,
            oldest_proof_at=proof.oldest,
            findings=proof.findings,
            first_finding=next((f.offset for f in record.open_findings), None),
        )


def _leader(status: EngineStatus) -> str | None:
    """The other node that is Primary; None where this one is, or nobody."""
    leads = next((peer.name for peer in status.peers if peer.role == "Primary"), None)
    return None if status.role == "Primary" else leads


def _as_command(name: str, offset: int | None, length: int | None, max_rate: int | None) -> str:
    """The command that asks for it, to be typed on another node."""
    command = f"blockpair verify {name} --wait"
    if length is not None:
        command += f" --range {offset or 0}-{(offset or 0) + length}"
    return command if max_rate is None else f"{command} --max-rate {max_rate}"


def report_of(name: str, record: Record, waits_for: str | None = None) -> VerifyReport:
    """A record as it is told."""
    run, running = record.run, record.wanted is not None
    return VerifyReport(
        name=name,
        size=record.size,
        region_bytes=record.region_bytes,
        proved=record.proved,
        findings=record.findings,
        running=running,
        done_bytes=0 if run is None else run.done,
        total_bytes=0 if run is None else run.length,
        ended=record.ended,
        reason=waits_for if running else record.reason,
        ended_at=record.ended_at,
    )


def aligned(offset: int, length: int | None, block: int, size: int) -> tuple[int, int]:
    """The whole blocks around a range, as offset and length: the engine compares no less."""
    start = offset // block * block
    end = size if length is None else min(-(-(offset + length) // block) * block, size)
    return start, end - start


def check_range(size: int, offset: int | None, length: int | None, max_rate: int | None) -> None:
    """Raises `BlockpairError` for what no device of this size can be asked."""
    start = offset or 0
    outside = not 0 <= start < size or (length is not None and length <= 0)
    if outside or (max_rate is not None and max_rate <= 0):
        what = (
            f"{length if length is not None else 'all'} bytes from {start} on" if outside else "a rate of 0"
        )
        raise BlockpairError(
            ErrorKind.USAGE,
            f"{what}: there is nothing to compare (the device has {size} bytes)",
            "choose a range inside the device, and a rate of at least a byte a second",
        )
