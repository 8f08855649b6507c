"""How likely a member is to fail soon: a score from 100 (nothing is known against it) to 0, with its reasons.
Pure.

The weights follow published statistics; `Reason.source` says which:

- Google 2007: Pinheiro, Weber, Barroso, "Failure Trends in a Large Disk Drive Population", FAST 2007. Within
  60 days of the first scan error a drive fails 39 times as often as one without, of the first offline
  reallocation 21 times, of the first sector on probation 16 times, of the first reallocation 14 times. More
  than half of the drives that failed had shown none of these: a score of 100 promises nothing.
- Backblaze 2014 and 2016: "Hard Drive SMART Stats", "What SMART Stats Tell Us About Hard Drives". Of the
  attributes 5, 187, 188, 197 and 198 any value above 0 is reason to look.
- NVMe: the SMART / Health Information log of the NVM Express Base Specification.
- Fail-slow: Gunawi and others, "Fail-Slow at Scale", FAST 2018; Lu and others, "Perseus", FAST 2023: a disk
  that is much slower than its neighbours under the same load is failing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blockpair.raid.model import Array, Part
from blockpair.raid.smart import Smart

# At or below this a member is replaced while it still serves: one of the strong signs, or two of the weaker.
REPLACE_AT = 40
_GOOGLE = "Google 2007"
_BACKBLAZE = "Backblaze 2014, 2016"
_NVME = "NVMe"
_FAIL_SLOW = "Fail-slow"
# Slower than its neighbours by this factor.
SLOW_FACTOR = 3.0


@dataclass(frozen=True)
class Reason:
    """Something that speaks against a disk; ``penalty`` is taken off its score."""

    code: str
    text: str
    penalty: int
    source: str


@dataclass(frozen=True)
class Health:
    """A member's score and what lowered it, the worst first. ``replace_at``: the score at or below which it
    should be replaced; 0: none is so low.
    """

    score: int
    reasons: tuple[Reason, ...] = ()
    replace_at: int = REPLACE_AT

    @property
    def replace(self) -> bool:
        """Whether it should be replaced before it fails."""
        return 0 < self.replace_at >= self.score

    @property
    def why(self) -> str:
        """Its reasons, for a person."""
        return "; ".join(reason.text for reason in self.reasons)


def score(smart: Smart | None, slowness: float = 1.0, replace_at: int = REPLACE_AT) -> Health:
    """The health of a disk. ``slowness``: its latency over that of its neighbours (`latency.slowness`)."""
    reasons = [] if smart is None else [*_own_verdict(smart), *_ata(smart), *_nvme(smart)]
    if slowness >= SLOW_FACTOR:
        text = f"{slowness:.1f} times as slow as the other members"
        reasons.append(Reason("slow", text, 40, _FAIL_SLOW))
    reasons.sort(key=lambda reason: (-reason.penalty, reason.code))
    return Health(max(0, 100 - sum(reason.penalty for reason in reasons)), tuple(reasons), replace_at)


def _own_verdict(smart: Smart) -> Iterator[Reason]:
    if smart.passed is False:
        yield Reason("failing", "it says itself that it is failing (SMART status)", 100, "SMART")


def _ata(smart: Smart) -> Iterator[Reason]:
    table = (
        (
            "offline_uncorrectable",
            smart.offline_uncorrectable,
            "sectors that a scan could not read",
            60,
            _GOOGLE,
        ),
        ("reported_uncorrectable", smart.reported_uncorrectable, "reads that failed", 60, _BACKBLAZE),
        ("pending", smart.pending, "sectors on probation", 40, _GOOGLE),
        ("reallocated", smart.reallocated, "reallocated sectors", 30, _GOOGLE),
        ("command_timeout", smart.command_timeout, "commands that timed out", 15, _BACKBLAZE),
        ("crc_errors", smart.crc_errors, "transfer errors: rather the cable than the disk", 5, _BACKBLAZE),
    )
    for code, count, what, penalty, source in table:
        if count:
            yield Reason(code, f"{count} {what}", penalty, source)


def _nvme(smart: Smart) -> Iterator[Reason]:
    bits = (
        (1 << 0, "spare_low", "its spare blocks are below its own threshold", 60),
        (1 << 1, "temperature", "its temperature is outside its own limits", 20),
        (1 << 2, "unreliable", "it says that its reliability is degraded", 100),
        (1 << 3, "read_only", "it has become read-only", 100),
        (1 << 4, "no_backup", "its volatile memory is no longer backed up", 60),
    )
    warned = smart.critical_warning or 0
    for bit, code, text, penalty in bits:
        if warned & bit:
            yield Reason(code, text, penalty, _NVME)
    spare, threshold = smart.spare_percent, smart.spare_threshold_percent
    if spare is not None and threshold is not None and spare < threshold and not warned & 1:
        yield Reason(
            "spare_low", f"{spare} % of its spare blocks are left, its threshold is {threshold} %", 60, _NVME
        )
    if smart.media_errors:
        yield Reason("media_errors", f"{smart.media_errors} media errors", 40, _NVME)
    if smart.used_percent is not None and smart.used_percent >= 90:
        penalty = 30 if smart.used_percent >= 100 else 10
        yield Reason("worn", f"{smart.used_percent} % of its rated endurance is used", penalty, _NVME)


def to_replace(array: Array, health: Mapping[str, Health]) -> tuple[str, str] | None:
    """The member that should be copied onto a spare now, and the spare: the worst that is at the threshold.
    None while anything else is to be done first, or no spare of its own is there and large enough.
    """
    if not array.active or array.failed_slots or array.sync is not None:
        return None
    if any(member.leaving for member in array.members):
        return None
    ill = [
        (health[member.device].score, member.device)
        for member in array.having(Part.ACTIVE)
        if member.device in health and health[member.device].replace
    ]
    spare = best_spare(array, health)
    if not ill or spare is None:
        return None
    return min(ill)[1], spare


def best_spare(array: Array, health: Mapping[str, Health]) -> str | None:
    """The spare of ``array`` to copy a member onto: the healthiest that is large enough, then the
    smallest.
    """
    sound = Health(100)
    spares = [
        (-health.get(member.device, sound).score, member.size_bytes, member.device)
        for member in array.having(Part.SPARE)
        if member.size_bytes >= array.component_bytes and not health.get(member.device, sound).replace
    ]
    return min(spares)[2] if spares else None
