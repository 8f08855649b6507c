"""What status, promote --force and may-stop say of a resource with an arbiter."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blockpair.cli.status_text import resource_lines
from blockpair.errors import ExitCode
from blockpair.status.advice import advice, healthy
from blockpair.status.arbitration import (
    arbiter_remedy,
    head_line,
    manual_because,
    waits_for,
    watchdog_failure,
)
from blockpair.status.conditions import holds
from blockpair.status.engine import ArbitrationStatus, EngineStatus, PeerStatus
from blockpair.status.may_stop import exit_code, may_stop
from blockpair.status.report import (
    Advice,
    ArbiterReport,
    KernelDeviceStatus,
    ResourceReport,
    ServiceStatus,
    State,
)
from blockpair.status.risk import in_vain, lines, risk
from tests.unit.status_samples import ARBITRATION, engine, peer, resync

ANSWERS = ArbiterReport("witness", "witness 10.0.0.3:7790", True, None, "answers", 4.0)
GONE = ArbiterReport("witness", "witness 10.0.0.3:7790", True, None, "unreachable", 3.0, "connection refused")
REFUSES = ArbiterReport("witness", "witness 10.0.0.3:7790", True, None, "refused", 3.0, "unknown cluster")
ALONE = {"epoch": 4, "primary": "a", "in_sync": ["a"]}


def arbitrated(*peers: PeerStatus, node: dict[str, Any] | None = None, **changes: Any) -> EngineStatus:
    """Node a, Primary in epoch 3 of a and b, but for ``changes`` of the arbitration and ``node``."""
    return engine(*peers, arbitration=ARBITRATION | changes, **(node or {}))


def away(**changes: Any) -> PeerStatus:
    """Peer b, silent for 1.2 seconds."""
    return peer(connection="Connecting", replication="Off", last_contact_seconds=1.2, **changes)


def told(status: EngineStatus, arbiter: ArbiterReport = ANSWERS) -> list[Advice]:
    return advice("r0", "running", None, status, arbiter=arbiter)


def one(code: str, status: EngineStatus, arbiter: ArbiterReport = ANSWERS) -> Advice:
    """The entry of that code."""
    [found] = [entry for entry in told(status, arbiter) if entry.code == code]
    return found


@pytest.mark.parametrize(
    ("status", "protected"),
    [
        (arbitrated(), True),
        (arbitrated(node={"role": "Secondary"}), False),
        (arbitrated(away()), False),
        (arbitrated(configuration={"epoch": 4, "primary": "a", "in_sync": ["a"]}, joint=True), False),
        (arbitrated(configuration=None), False),
        # It acknowledges, and gives no word: it was brought up without the arbiter.
        (arbitrated(lease_seconds=None), False),
        (arbitrated(node={"protocol": "A"}), False),
        (engine(peer()), True),
        (engine(peer(), protocol="A"), False),
    ],
)
def test_a_primary_may_be_lost_once_the_other_may_go_on(status: EngineStatus, protected: bool) -> None:
    assert holds("protected", report(status)) is protected


def test_all_is_well_says_nothing() -> None:
    assert told(arbitrated()) == []


def test_a_stop_says_who_is_away_what_releases_it_and_how_to_override() -> None:
    found = one("suspended", arbitrated(away(), want="shrink", suspended="writes", asking=True), GONE)
    assert found.severity == "critical"
    assert found.text == (
        "writes wait: peer b silent for 1.2 s, witness 10.0.0.3:7790 unreachable for 3.0 s "
        "(connection refused); goes on when either answers"
    )
    assert found.remedy.endswith("blockpair promote r0 --force")


def test_a_fence_that_does_not_work_is_looked_at_by_a_command() -> None:
    fence = ArbiterReport("fence", "fence", True, None, "unreachable", 3.0, "b is not proved off")
    waiting = arbitrated(away(), want="shrink", suspended="writes")
    assert "blockpair fence test b" in one("suspended", waiting, fence).remedy
    assert "fence test" not in one("suspended", waiting, GONE).remedy


def test_a_fence_that_is_under_way_is_told_and_what_it_leads_to() -> None:
    fence = ArbiterReport("fence", "fence", True, None, "unasked", fencing="b", fencing_seconds=3.0)
    waiting = arbitrated(away(), want="shrink", suspended="writes", asking=True)
    text = one("suspended", waiting, fence).text
    assert "b is being switched off for 3.0 s; goes on by itself once that is proved" in text
    assert head_line(fence, waiting).startswith("fence, b is being switched off for 3.0 s; epoch 3")
    again = msgspec.structs.replace(fence, state="unreachable", text="b is not proved off")
    assert "is being switched off" in head_line(again, waiting)
    campaign = arbitrated(away(role="Primary"), node={"role": "Secondary"}, want="promote")
    assert "b is being switched off" in one("campaign", campaign, again).text


def test_a_peer_that_promised_more_releases_nothing_by_itself() -> None:
    why = "writes wait: b has promised epoch 4; only the arbiter says who is Primary"
    for want in ("renew", None):
        status = arbitrated(away(), want=want, suspended="writes", why=why, fenced=True)
        text = one("suspended", status, GONE).text
        assert text.endswith("goes on when the arbiter answers") and "either" not in text


def test_a_follower_says_whom_it_follows() -> None:
    following = arbitrated(peer(role="Primary"), node={"role": "Secondary"}, configuration=None)
    assert head_line(ANSWERS, following).endswith("; epoch 3, Primary b")
    alone = arbitrated(away(role="Primary"), node={"role": "Secondary"}, configuration=None)
    assert head_line(ANSWERS, alone).endswith("; epoch 3")


def test_the_engines_own_words_are_said_once() -> None:
    status = arbitrated(away(), node={"suspended": "b is silent"}, want="shrink", suspended="writes")
    assert [entry.code for entry in told(status)].count("suspended") == 1


@pytest.mark.parametrize(
    ("changes", "arbiter", "words"),
    [
        (
            {"suspended": "all", "lease_seconds": None, "want": "shrink"},
            GONE,
            ["reads and writes", "has run out"],
        ),
        (
            {"suspended": "writes", "want": "shrink"},
            ANSWERS,
            ["writes wait", "go on alone", "goes on by itself"],
        ),
        ({"suspended": "writes", "want": "shrink"}, REFUSES, ["refuses for 3.0 s (unknown cluster)"]),
        (
            {"suspended": "writes", "why": "writes wait: the arbiter has lost its record, and b is silent"},
            ANSWERS,
            ["writes wait: the arbiter has lost", "b is silent; goes on when both nodes are connected"],
        ),
        ({"suspended": "all", "want": "resume"}, GONE, ["goes on when either answers"]),
    ],
)
def test_every_stop_has_words(changes: dict[str, Any], arbiter: ArbiterReport, words: list[str]) -> None:
    text = one("suspended", arbitrated(away(), **changes), arbiter).text
    assert [word for word in words if word not in text] == []


def test_a_primary_that_was_superseded_says_why_and_that_it_comes_back_by_itself() -> None:
    status = arbitrated(
        peer(role="Primary", replication="SyncTarget"),
        node={"role": "Secondary", "disk": "Inconsistent"},
        superseded="b took over in epoch 4",
        configuration={"epoch": 4, "primary": "b", "in_sync": ["b"]},
    )
    found = one("superseded", status)
    assert "b took over in epoch 4" in found.text and "I/O errors" in found.text
    assert "by itself" in found.remedy


def test_who_was_superseded_is_told_of_no_way_to_become_primary_again() -> None:
    for want in ("resume", "promote"):
        status = arbitrated(
            away(),
            node={"role": "Secondary", "disk": "Consistent"},
            superseded="b has become Primary meanwhile",
            want=want,
        )
        entries = told(status)
        assert "superseded" in [entry.code for entry in entries]
        assert [entry.code for entry in entries if "promote" in entry.remedy] == []


@pytest.mark.parametrize(
    ("role", "words"),
    [("Primary", "is Primary and serves nothing"), ("Secondary", "does not become Primary")],
)
def test_a_watchdog_that_cannot_be_armed_is_told_and_the_arbiter_is_not_blamed(role: str, words: str) -> None:
    missing = "watchdog /dev/watchdog cannot be opened: No such file or directory"
    status = arbitrated(node={"role": role, "watchdog": missing}, want="promote")
    found = one("watchdog", status)
    assert found.severity == "critical" and words in found.text and missing in found.text
    assert "campaign" not in [entry.code for entry in told(status)]
    assert waits_for(report(status)) == f"waits for the watchdog: {missing}"
    failure = watchdog_failure("r0", status)
    assert failure is not None and failure.message == found.text
    assert ("blockpair demote r0" in failure.remedy) == (role == "Primary")
    assert watchdog_failure("r0", arbitrated()) is None


def test_an_arbiter_that_is_away_is_told_of_before_it_is_needed() -> None:
    found = one("arbiter-unreachable", arbitrated(), GONE)
    assert found.severity == "warning" and "nothing waits for it" in found.text
    assert told(arbitrated(), ANSWERS) == []


def test_what_waits_for_an_arbiter_that_is_away_is_named() -> None:
    grow = one("arbiter-awaited", arbitrated(want="grow", joint=True), GONE)
    assert "the other copy is in sync" in grow.text and "does not take over" in grow.text
    # While it answers, what is wanted is a matter of a moment.
    assert told(arbitrated(want="grow")) == []


def test_a_refusal_needs_a_person() -> None:
    found = one("arbiter-refused", arbitrated(), REFUSES)
    assert found.severity == "critical" and "unknown cluster" in found.text


def test_a_record_that_is_lost_is_told_anew_by_both_nodes_or_by_a_person() -> None:
    together = one("arbiter-lost-record", arbitrated(want="reseed"))
    assert together.remedy.startswith("nothing")
    alone = one("arbiter-lost-record", arbitrated(away(), why="the arbiter has lost its record"))
    assert "promote r0 --force" in alone.remedy and "older than epoch 3" in alone.text


def test_a_campaign_that_does_not_get_on_says_why() -> None:
    status = arbitrated(away(role="Primary"), node={"role": "Secondary"}, want="promote", why="b is silent")
    found = one("campaign", status, GONE)
    assert "(b is silent)" in found.text and "unreachable for 3.0 s" in found.text
    assert "until then nobody can write" in found.text and "promote r0 --force" in found.remedy
    why = "not Primary: the copy of r0 on a may lack acknowledged writes: the arbiter has epoch 5, Primary b"
    behind = one("campaign", arbitrated(away(), node={"role": "Secondary"}, want="promote", why=why))
    assert "only the Primary of that record may write" in behind.text and "nobody" not in behind.text
    assert behind.remedy.startswith("have b connected again") and "gone for good" in behind.remedy
    handover = arbitrated(peer(role="Primary"), node={"role": "Secondary"}, want="handover")
    assert "nobody can write" not in one("campaign", handover).text


def test_a_peer_that_does_not_follow_yet_is_a_matter_of_the_engine() -> None:
    why = "writes wait: b is connected, and does not follow yet"
    found = one("suspended", arbitrated(suspended="writes", why=why))
    assert found.text == f"{why}; goes on by itself when that is settled"
    # It is there, and so is the arbiter.
    assert found.remedy.startswith("nothing, unless it lasts")
    assert "see on b" in found.remedy and "--force" not in found.remedy
    assert "promote r0 --force" in one("suspended", arbitrated(away(), suspended="writes", why=why)).remedy


def test_without_an_arbiter_nothing_is_said_of_one() -> None:
    assert advice("r0", "running", None, engine(), arbiter=GONE) == []


@pytest.mark.parametrize(
    ("arbiter", "words"),
    [
        (ANSWERS, "witness 10.0.0.3:7790, answered 4.0 s ago; epoch 3, Primary a, in sync a, b"),
        (GONE, "UNREACHABLE for 3.0 s"),
        (REFUSES, "REFUSES for 3.0 s"),
        (msgspec.structs.replace(ANSWERS, state="unasked", since_seconds=None), "not asked yet"),
        (msgspec.structs.replace(ANSWERS, automatic=False), "no failover without a person"),
        (ArbiterReport("manual", "manual", False, "why", "manual"), "manual: no failover without a person"),
    ],
)
def test_the_screen_has_a_line_on_the_arbiter(arbiter: ArbiterReport, words: str) -> None:
    assert words in head_line(arbiter, arbitrated())
    shown = "\n".join(line.plain for line in resource_lines(report(arbitrated(), arbiter=arbiter)))
    assert words in shown


@pytest.mark.parametrize(
    ("kind", "protocol", "clustered", "opted_out", "why", "how"),
    [
        ("manual", "C", False, False, "in no cluster", "cluster init"),
        ("manual", "C", True, False, "has no arbiter", "--set arbiter.kind=witness"),
        ("manual", "C", True, True, 'arbiter = "manual"', "resource.r0.arbiter"),
        ("witness", "A", True, False, "protocol A", "resource.r0.protocol=C"),
        ("etcd", "A", True, False, "protocol A", "fence"),
    ],
)
def test_a_failover_that_is_manual_says_why_and_how_it_would_not_be(
    kind: str, protocol: str, *, clustered: bool, opted_out: bool, why: str, how: str
) -> None:
    assert why in str(manual_because(kind, protocol, clustered=clustered, opted_out=opted_out))
    assert how in arbiter_remedy("r0", kind, protocol, clustered=clustered, opted_out=opted_out)


@pytest.mark.parametrize(("kind", "protocol"), [("witness", "C"), ("etcd", "B"), ("fence", "A")])
def test_nothing_is_manual_where_the_survivor_goes_on(kind: str, protocol: str) -> None:
    assert manual_because(kind, protocol, clustered=True, opted_out=False) is None


# -- promote --force


def test_force_says_what_is_known_of_the_peer_and_what_may_be_lost() -> None:
    status = arbitrated(away(role="Primary"), node={"role": "Secondary", "disk": "Consistent"})
    found = risk(status)
    assert (found.peers[0].seconds_ago, found.peers[0].possible_bytes) == (1.2, 1 << 30)
    text = "\n".join(lines(found))
    assert "b was last heard of 1.2 s ago, as Primary, UpToDate" in text
    assert "at most 1 GiB" in text and "recorded in the history" in text and "split brain" in text


def test_force_on_a_copy_that_is_half_synced_says_how_much_is_missing() -> None:
    running = msgspec.to_builtins(resync(direction="from_peer"))
    status = engine(peer(connection="Connecting", resync=running), role="Secondary", disk="Inconsistent")
    assert risk(status).peers[0].lacking_bytes == 3 << 30
    assert "a mixture of old and new" in "\n".join(lines(risk(status)))
    # The one before was cut off: what is missing is not known here.
    cut = engine(away(), role="Secondary", disk="Inconsistent")
    assert risk(cut).peers[0].lacking_bytes == 1 << 30


def test_force_on_a_primary_that_waits_says_what_is_written_then() -> None:
    status = arbitrated(
        away(role="Secondary"),
        node={"requests": {"in_flight": 3, "in_flight_bytes": 12288}},
        suspended="writes",
        want="shrink",
    )
    found = risk(status)
    assert found.waits and found.epoch == 3
    assert "what waits here (12 KiB at this moment)" in "\n".join(lines(found))


def test_force_on_a_copy_that_never_had_data_says_that_it_counts_from_now_on() -> None:
    new = {"disk": "Inconsistent", "role": "Secondary", "generation": {"current": "0" * 16, "history": []}}
    found = risk(engine(peer(replication="Waiting", disk="Inconsistent"), **new))
    assert found.peers[0].possible_bytes == 0
    text = "\n".join(lines(found))
    assert "never had data" in text and "mixture" not in text


def test_force_is_in_vain_against_a_peer_that_says_it_is_primary() -> None:
    refusal = in_vain(engine(peer(role="Primary"), role="Secondary"))
    assert refusal is not None and refusal.exit_code is ExitCode.UNSAFE
    assert refusal.remedy == "to move it here: blockpair switchover r0"
    # Out of sight, it may be dead; and a Primary's own force is for its waiting writes.
    assert in_vain(engine(away(role="Primary"), role="Secondary")) is None
    assert in_vain(engine(peer(role="Secondary"), role="Secondary")) is None
    assert in_vain(engine(peer(role="Primary"))) is None


def test_force_says_that_nobody_was_heard_of() -> None:
    text = "\n".join(lines(risk(engine(peer(connection="Connecting", last_contact_seconds=None)))))
    assert "not heard of since this daemon started" in text


# -- may-stop


def report(status: EngineStatus | None, state: State = "running", **changes: Any) -> ResourceReport:
    """A report around an engine's status."""
    device = KernelDeviceStatus(attached=False)
    entries = advice("r0", state, None, status, device)
    made = ResourceReport(
        "r0", state, None, healthy(entries), "/d", "internal", [], None, device, status, entries, []
    )
    return msgspec.structs.replace(made, **changes)


SECONDARY = {"role": "Secondary"}
CASES: list[tuple[str, EngineStatus, str | None]] = [
    ("primary", engine(), "in-use"),
    ("resuming", engine(away(), resuming=True, **SECONDARY), "in-use"),
    ("primary-without-a-disk", engine(disk="Diskless", served_by="b"), "in-use"),
    ("both-good", engine(peer(role="Primary"), **SECONDARY), None),
    ("nobody-primary", engine(**SECONDARY), None),
    ("peer-away", engine(away(), **SECONDARY), "only-copy"),
    ("peer-away-and-who-knows", engine(away(), disk="Consistent", **SECONDARY), "only-copy"),
    ("peer-inconsistent", engine(
        peer(disk="Inconsistent", replication="SyncSource"), **SECONDARY), "only-copy"),
    ("peer-outdated", engine(peer(disk="Outdated"), **SECONDARY), "only-copy"),
    ("peer-out-of-sync", engine(peer(out_of_sync_bytes=4096), **SECONDARY), "only-copy"),
    ("peer-needs-all", engine(peer(full_sync=True), **SECONDARY), "only-copy"),
    ("stand-in", engine(peer(role="Primary", disk="Diskless"), **SECONDARY), "stand-in"),
    ("this-one-is-old", engine(away(), disk="Outdated", **SECONDARY), None),
    ("this-one-is-half-synced", engine(
        peer(replication="SyncTarget"), disk="Inconsistent", **SECONDARY), None),
    ("this-one-has-no-disk", engine(disk="Diskless", **SECONDARY), None),
    ("not-in-the-in-sync-set", arbitrated(away(), node=SECONDARY, configuration={
        "epoch": 4, "primary": "b", "in_sync": ["b"]}), None),
    ("alone-in-the-in-sync-set", arbitrated(away(), node=SECONDARY, configuration=ALONE), "only-copy"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_node_may_stop_unless_it_takes_a_disk_in_use_or_the_only_copy_along(
    status: EngineStatus, code: str | None
) -> None:
    answer = may_stop("a", [report(status)])
    assert [obstacle.code for obstacle in answer.obstacles] == ([] if code is None else [code])
    assert exit_code(answer) == (ExitCode.FINE if code is None else ExitCode.UNSAFE)
    assert all(obstacle.text and obstacle.remedy for obstacle in answer.obstacles)


def test_a_primary_alone_hands_over_once_there_is_somebody_to_hand_over_to() -> None:
    [alone] = may_stop("a", [report(engine(away()))]).obstacles
    assert "the only good copy" in alone.text and alone.remedy.startswith("wait until")
    for status in (engine(), engine(disk="Diskless", served_by="b")):
        [found] = may_stop("a", [report(status)]).obstacles
        assert "only good copy" not in found.text
        assert found.remedy == "stop or unmount what uses it, then: blockpair switchover r0"
    # The service takes its mount along.
    served = report(engine(), service=ServiceStatus("up", None, None, [], None))
    assert may_stop("a", [served]).obstacles[0].remedy == "blockpair switchover r0"


def test_what_is_down_or_has_failed_keeps_no_node_up() -> None:
    assert may_stop("a", []).may_stop
    assert may_stop("a", [report(None, "down"), report(None, "failed"), report(engine(), "failed")]).may_stop


def test_one_obstacle_is_enough() -> None:
    answer = may_stop("a", [report(engine(**SECONDARY)), report(engine())])
    assert not answer.may_stop and len(answer.obstacles) == 1


def test_an_engines_status_is_read_as_it_comes() -> None:
    assert msgspec.convert(ARBITRATION, ArbitrationStatus).configuration is not None
