"""What came of an audit, as it is kept and told. Times are RFC 3339 in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal

from msgspec import Struct

from blockpair.checks.finding import Examination
from blockpair.verify.messages import VerifyReport

# "left": another node leads this resource, and compares it in its own audits.
Outcome = Literal["identical", "differences", "unfinished", "failed", "left"]
SCHEMA: Literal["blockpair.audit/1"] = "blockpair.audit/1"


class Code(IntEnum):
    """Exit codes of ``blockpair audit run``."""

    IDENTICAL = 0
    NOT_RUN = 1
    DIFFERENCES = 3
    UNFINISHED = 4


class Result(Struct, frozen=True):
    """Of one resource. ``why``: of an outcome that needs a reason; ``seconds``: it was being compared;
    ``findings``: blocks that differ, and that nobody has repaired or waived.
    """

    name: str
    outcome: Outcome
    why: str = ""
    seconds: float = 0.0
    findings: int = 0


class AuditRecord(Struct, frozen=True):
    """An audit of ``node`` that has ended. ``code``: its exit code; ``errors`` and ``warnings``: how many the
    checks found.
    """

    schema: Literal["blockpair.audit/1"]
    node: str
    began_at: str
    ended_at: str
    code: int
    results: list[Result]
    errors: int = 0
    warnings: int = 0


class AuditReport(Struct, frozen=True):
    """What is known on ``node`` at ``time``: the ``last`` audit that ended, what comparing has shown of each
    resource, and the checks.
    """

    schema: Literal["blockpair.audit/1"]
    node: str
    time: str
    last: AuditRecord | None
    resources: list[VerifyReport]
    checks: Examination


def verdict(results: Iterable[Result]) -> Code:
    """The gravest first: copies that differ, then what could not be compared, then what was not reached."""
    own = [result for result in results if result.outcome != "left"]
    outcomes = {result.outcome for result in own}
    if "differences" in outcomes or any(result.findings for result in own):
        return Code.DIFFERENCES
    if "failed" in outcomes:
        return Code.NOT_RUN
    return Code.UNFINISHED if "unfinished" in outcomes else Code.IDENTICAL
