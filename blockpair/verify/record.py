"""What is known of whether both copies of a resource are the same. Pure: every change is a new record.

Offsets and lengths are bytes of the resource's data, times are Unix seconds. A region is proved identical
when every byte of it was compared, and was the same, in one pass; a finding is a block that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

FindingState = Literal["found", "confirmed", "repaired", "waived"]
Ended = Literal["identical", "differences", "stopped", "failed"]

REGIONS_MAX = 4096
_REGION_BYTES_MIN = 1 << 20
# Settled ones beyond this go, the oldest first. Open ones are bounded by the engine, which ends a run that
# finds so many.
SETTLED_MAX = 4096


class Finding(Struct, frozen=True):
    """A block whose copies differed. ``local`` and ``peer``: the XXH3-128 of either copy, 32 hexadecimal
    digits, from this node's point of view. ``state``: "found" by one run, "confirmed" by another, "repaired":
    compared since, and the same; "waived": a person has said that it may be so.
    """

    offset: int
    length: int
    local: str
    peer: str
    found_at: int
    state: FindingState = "found"
    settled_at: int | None = None

    @property
    def open(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.state in ("found", "confirmed")


class Run(Struct, frozen=True):
    """A comparison that was asked for: ``length`` bytes from ``start`` on, round the end of the device.
    ``done``: so many of them are behind it. ``max_rate``: bytes a second, null: as fast as the application
    allows. ``since``: when it was asked for.
    """

    start: int
    length: int
    since: int
    done: int = 0
    max_rate: int | None = None

    def rest(self, size: int) -> tuple[int, int] | None:
        """Offset and length of what is to be compared next in one piece; None when all is done."""
        left = self.length - self.done
        if left <= 0:
            return None
        offset = (self.start + self.done) % size
        return offset, min(left, size - offset)


class Record(Struct, frozen=True):
    """``resource_id``: of the data that was compared; another's record says nothing. ``proved``: for each
    region, when it was last proved identical, null: never. ``stretch``: what was found the same without a gap
    up to now. ``run``: what is to be compared, until it ends; then ``ended``, ``reason`` and ``ended_at`` say
    how, and ``run`` stays for the next that goes on from there.
    """

    resource_id: str
    size: int
    region_bytes: int
    proved: list[int | None]
    findings: list[Finding] = []
    stretch: tuple[int, int] = (0, 0)
    run: Run | None = None
    ended: Ended | None = None
    reason: str | None = None
    ended_at: int | None = None

    @property
    def wanted(self) -> Run | None:
        """The run that is to go on until it has ended."""
        return self.run if self.ended is None else None

    @property
    def open_findings(self) -> list[Finding]:
        """Those that somebody has to do something about."""
        return [finding for finding in self.findings if finding.open]


def fresh(resource_id: str, size: int) -> Record:
    """Of a resource that nothing is known of."""
    region = _REGION_BYTES_MIN
    while -(-size // region) > REGIONS_MAX:
        region *= 2
    return Record(resource_id, size, region, [None] * -(-size // region))


def begin(
    record: Record, *, offset: int | None, length: int | None, max_rate: int | None, now: int
) -> Record:
    """A run is asked for. Without ``offset``, the last one goes on where it stopped, or the whole device is
    compared, the region first whose proof is the oldest.
    """
    if offset is None and length is None:
        run = _whole(record, max_rate, now)
    else:
        start = offset or 0
        run = Run(start, min(length or record.size, record.size - start), now, max_rate=max_rate)
    return replace(record, run=run, stretch=(0, 0), ended=None, reason=None, ended_at=None)


def _whole(record: Record, max_rate: int | None, now: int) -> Run:
    last = record.run
    if last is not None and record.ended in (None, "stopped", "failed") and last.done < last.length:
        # A region is proved in one pass: the one it stopped in is compared from its beginning.
        return replace(last, done=_region_start(record, last), max_rate=max_rate, since=now)
    oldest = min(range(len(record.proved)), key=lambda region: (record.proved[region] or -1, region))
    return Run(oldest * record.region_bytes, record.size, now, max_rate=max_rate)


def _region_start(record: Record, run: Run) -> int:
    position = (run.start + run.done) % record.size
    return max(0, run.done - position % record.region_bytes)


def interrupted(record: Record) -> Record:
    """The engine stopped in the middle, and shall go on: from the beginning of the region it was in."""
    run = record.wanted
    if run is None:
        return record
    return replace(record, run=replace(run, done=_region_start(record, run)), stretch=(0, 0))


def proved(record: Record, offset: int, length: int, now: int) -> Record:
    """Both copies of these bytes were the same."""
    end = offset + length
    begin_at, end_at = record.stretch
    stretch = (begin_at, end) if end_at == offset and begin_at < end_at else (offset, end)
    first = -(-stretch[0] // record.region_bytes)
    last = len(record.proved) if end >= record.size else end // record.region_bytes
    regions = list(record.proved)
    for region in range(max(first, offset // record.region_bytes), last):
        regions[region] = now
    findings = [
        replace(finding, state="repaired", settled_at=now)
        if finding.state != "repaired" and offset <= finding.offset and finding.offset + finding.length <= end
        else finding
        for finding in record.findings
    ]
    return replace(_passed(record, offset, end), proved=regions, findings=findings, stretch=stretch)


def found(record: Record, block: Finding) -> Record:
    """A block differs. One that was known is confirmed; one that was waived stays so while neither copy has
    changed.
    """
    known = next((finding for finding in record.findings if finding.offset == block.offset), None)
    entry = block
    if known is not None and known.open:
        entry = replace(block, state="confirmed", found_at=known.found_at)
    elif known is not None and (known.state, known.local, known.peer) == ("waived", block.local, block.peer):
        entry = known
    others = [finding for finding in record.findings if finding.offset != block.offset]
    return replace(
        _passed(record, block.offset, block.offset + block.length),
        findings=_bounded(sorted([*others, entry], key=lambda finding: finding.offset)),
        stretch=(0, 0),
    )


def skipped(record: Record, offset: int, length: int) -> Record:
    """These bytes are known to be out of sync, and were not compared."""
    return replace(_passed(record, offset, offset + length), stretch=(0, 0))


def _bounded(findings: list[Finding]) -> list[Finding]:
    settled = sorted(
        (finding for finding in findings if not finding.open), key=lambda finding: finding.settled_at or 0
    )
    gone = {finding.offset for finding in settled[:-SETTLED_MAX]}
    return [finding for finding in findings if finding.offset not in gone] if gone else findings


def _passed(record: Record, offset: int, end: int) -> Record:
    run = record.wanted
    if run is None or (run.start + run.done) % record.size != offset:
        return record
    return replace(record, run=replace(run, done=min(run.length, run.done + end - offset)))


def end(record: Record, ended: Ended | None, reason: str | None, now: int) -> Record:
    """The run is over. ``ended`` None: it came to its end, and what was found in it says how."""
    run = record.run
    if run is None:
        return record
    if ended is None:
        there = [finding for finding in record.findings if within(finding, run, record.size)]
        ended = "differences" if any(finding.open for finding in there) else "identical"
        waived = sum(finding.state == "waived" for finding in there)
        if waived and reason is None:
            reason = f"but for {waived} that differ and are waived"
    return replace(record, ended=ended, reason=reason, ended_at=now)


def within(finding: Finding, run: Run, size: int) -> bool:
    """Whether a run compares this block."""
    return (finding.offset - run.start) % size < run.length


def waived(record: Record, chosen: Callable[[Finding], bool], now: int) -> Record:
    """A person has said that the chosen findings may be so."""
    findings = [
        replace(finding, state="waived", settled_at=now) if finding.open and chosen(finding) else finding
        for finding in record.findings
    ]
    return replace(record, findings=findings)


class Proof(Struct, frozen=True):
    """How much of a resource was ever proved identical, a share from 0 to 1, and when the part was whose
    proof is the oldest; null where there is none. ``findings``: those that are open.
    """

    share: float
    oldest: int | None
    findings: int


def proof(record: Record) -> Proof:
    """All of it in three numbers."""
    times = [at for at in record.proved if at is not None]
    last = record.size - (len(record.proved) - 1) * record.region_bytes
    known = sum(
        (last if region == len(record.proved) - 1 else record.region_bytes)
        for region, at in enumerate(record.proved)
        if at is not None
    )
    return Proof(known / record.size, min(times, default=None), len(record.open_findings))
