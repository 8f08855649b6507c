"""What a person is told of a service: its line, its advice, and what to do about a run that failed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from blockpair.daemon.service_report import error_of, run_of, step_of
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.executor import Result, StepEvent, Way
from blockpair.failover.plan import Wish
from blockpair.failover.progress import Outcome
from blockpair.status.report import ServiceRun, ServiceStatus
from blockpair.status.service import NO_DEVICE, advice_on_service, remedy_for, service_line

VIP = "192.0.2.10/24@eth0"
RUN = ServiceRun("promote", "done", "2026-01-02T03:04:05.678Z", 0.5, [])
UP = ServiceStatus("up", None, None, [VIP], RUN)


def test_a_service_that_is_up_is_told_in_a_line_and_needs_nothing() -> None:
    assert service_line(UP) == f"up, has {VIP} (promote took 0.50 s)"
    assert list(advice_on_service("r0", UP)) == []


@pytest.mark.parametrize(
    ("changes", "code", "severity", "remedy"),
    [
        ({"state": "failed", "why": "fsck", "remedy": "do"}, "service-failed", "critical", "do"),
        ({"state": "suspended", "why": "x", "vips": []}, "service-suspended", "warning", "by themselves"),
        ({"state": "stopped", "held": True}, "service-held", "warning", "blockpair promote r0"),
        ({"changed": True}, "service-changed", "info", "blockpair switchover r0"),
    ],
)
def test_what_is_not_as_it_should_be_comes_with_a_remedy(
    changes: dict[str, object], code: str, severity: str, remedy: str
) -> None:
    [entry] = advice_on_service("r0", replace(UP, **changes))
    assert (entry.code, entry.severity) == (code, severity) and remedy in entry.remedy


def test_every_remedy_names_a_command_that_is_there() -> None:
    for wish in Wish:
        for step in ("epoch", "promote", "fsck", "mount", "unit db.service", "health", "probe", f"vip {VIP}"):
            told = remedy_for("r0", wish, step)
            words = told.partition("blockpair ")[2].split()
            assert words[0] in ("promote", "demote", "switchover") and words[1] == "r0", told
    assert "--kill-users" in remedy_for("r0", "demote", "mount")
    assert "journalctl -u db.service" in remedy_for("r0", "promote", "unit db.service")
    assert "--without-service" in remedy_for("r0", "promote", "fsck")
    # There is no device to repair.
    assert remedy_for("r0", "promote", "fsck", NO_DEVICE).startswith("have the kernel's nbd: modprobe nbd")


def failed(wish: Wish, step: str, outcome: Outcome = Outcome.UNDONE) -> Result:
    return Result(wish, outcome, step=step, why="a reason")


def test_who_asked_is_told_what_the_engine_said_and_where_the_service_is_now() -> None:
    refusal = BlockpairError(ErrorKind.UNSAFE, "b is Primary", "demote it there")
    assert error_of("r0", failed(Wish.PROMOTE, "promote"), refusal) is refusal
    down = error_of("r0", failed(Wish.DEMOTE, "promote"), refusal)
    assert (down.kind, down.message) == (refusal.kind, "b is Primary; the service is up as before")
    held = error_of("r0", failed(Wish.HAND_OVER, "mount"), None)
    assert held.kind is ErrorKind.IN_USE and "a reason; the service is up as before" in held.message
    up = error_of("r0", failed(Wish.PROMOTE, "mount"), None)
    assert up.kind is ErrorKind.FAILED and "what was done was undone" in up.message
    stuck = error_of("r0", failed(Wish.PROMOTE, "mount", Outcome.STUCK), refusal)
    assert "could not be undone" in stuck.message


def test_a_run_is_published_with_its_steps_and_how_it_ended() -> None:
    event = StepEvent(Wish.STOP, "mount", Way.DO, "unmount /srv", 0.12345, True, ("busy",))
    run = run_of(Wish.STOP, failed(Wish.STOP, "mount", Outcome.STUCK), 1.23456, [step_of(event)])
    assert (run.wish, run.outcome, run.seconds, run.step, run.why) == (
        "stop", "stuck", 1.2346, "mount", "a reason",
    )  # fmt: skip
    [step] = run.steps
    assert (step.name, step.way, step.seconds, step.problems) == ("mount", "do", 0.1235, ["busy"])
    cut = run_of(Wish.PROMOTE, None, 0.1, [])
    assert (cut.outcome, cut.step, cut.why) == ("cut", None, None)
