"""Advice over the states a resource can be in, and the conditions to wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from blockpair.cli.progress import hopeless, plain, show
from blockpair.cli.status_text import resource_lines
from blockpair.config.names import Address
from blockpair.status.advice import Outside, advice, healthy
from blockpair.status.conditions import CONDITIONS, holds, missing
from blockpair.status.engine import EngineStatus, PeerStatus
from blockpair.status.paths import OwnPlace, hears, named
from blockpair.status.report import KernelDeviceStatus, ResourceReport, State
from tests.unit.status_samples import engine, peer, resync


def report(status: EngineStatus | None, state: State = "running") -> ResourceReport:
    """A report around an engine's status."""
    device = KernelDeviceStatus(attached=False)
    entries = advice("r0", state, None, status, device)
    return ResourceReport(
        "r0", state, None, healthy(entries), "/d", "internal", [], None, device, status, entries, []
    )


def away(**changes: Any) -> PeerStatus:
    """Peer b, not connected."""
    return peer(**{"connection": "Connecting", "replication": "Off", **changes})


def refusal(reason: str, rule: str | None = None, connection: str = "Connecting") -> EngineStatus:
    """A handshake that ended in a refusal."""
    return engine(away(connection=connection, refusal={"reason": reason, "text": "the words"}, rule=rule))


def split(said: str = "the words") -> EngineStatus:
    """A split brain that a person has to decide."""
    told = {"reason": "Refused", "text": said}
    return engine(away(connection="StandAlone", refusal=told, rule="split-brain", split_brain=True))


ACTIVE = {"address": "10.0.0.2:7788", "state": "active", "since_seconds": 60.0, "why": None}
STANDBY = {"address": "10.1.0.2:7788", "state": "standby", "since_seconds": 60.0, "why": None}
DOWN = {"address": "10.1.0.2:7788", "state": "down", "since_seconds": 90.0, "why": "no route to host"}
NEW = {"disk": "Inconsistent", "role": "Secondary"}

CASES: list[tuple[str, EngineStatus, str, str, str]] = [
    ("nobody-primary", engine(role="Secondary"), "no-primary", "info", "blockpair promote r0"),
    ("resuming", engine(away(), resuming=True), "resuming", "warning", "wait r0 --until primary"),
    ("suspended", engine(suspended="b is silent"), "suspended", "critical", "by themselves"),
    ("diskless", engine(disk="Diskless", disk_error="EIO"), "diskless", "critical", "blockpair up r0"),
    ("disk-error", engine(disk_error="EIO at 4096"), "disk-error", "warning", "smartctl"),
    ("inconsistent", engine(away(), **NEW), "inconsistent", "critical", "blockpair connect r0"),
    ("outdated", engine(away(), role="Secondary", disk="Outdated"), "outdated", "warning",
     "on b: blockpair connect r0"),
    ("outdated-and-disconnected-here", engine(
        peer(connection="StandAlone", replication="Off"), role="Secondary", disk="Outdated"),
        "outdated", "warning", "begins by itself: blockpair connect r0"),
    ("consistent", engine(away(), role="Secondary", disk="Consistent"), "consistent", "warning", "--force"),
    ("first-sync", engine(peer(replication="Waiting", disk="Inconsistent"), **NEW), "first-sync", "warning",
     "sync r0 --from NODE"),
    ("sync-source", engine(peer(replication="SyncSource", resync=msgspec.to_builtins(resync()))), "resync",
     "warning", "sync r0 --wait"),
    ("sync-target", engine(peer(replication="SyncTarget"), **NEW), "resync", "warning", "sync r0 --wait"),
    ("unreachable", engine(away(out_of_sync_bytes=8192)), "unreachable", "warning", "blockpair status r0"),
    (
        "untrusted",
        engine(away(untrusted="b:7788: its certificate has expired")),
        "untrusted",
        "critical",
        "blockpair cluster status",
    ),
    ("never-seen", engine(away(last_contact_seconds=None)), "unreachable", "warning", "port is open"),
    ("disconnected", engine(away(connection="StandAlone")), "disconnected", "warning", "connect r0"),
    ("peer-left", refusal("Disconnect"), "unreachable", "warning", "on b: blockpair status r0"),
    ("split-brain", split(), "split-brain", "critical", "resolve r0 --discard NODE"),
    ("resolving", engine(peer(replication="Off", resolving="rewinding")), "resolving", "warning",
     "sync r0 --wait"),
    ("unrelated", refusal("Refused", "unrelated-data"), "refused-refused", "critical",
     "blockpair down r0 && blockpair create r0 --anew --yes && blockpair up r0"),
    ("policy", refusal("Policy"), "refused-policy", "warning", "config show"),
    ("version", refusal("Version"), "refused-version", "warning", "blockpair --version"),
    ("size", refusal("Size"), "refused-size", "critical", "as large"),
    ("block-size", refusal("BlockSize"), "refused-blocksize", "warning", "--block-size"),
    ("protocol", refusal("Protocol"), "refused-protocol", "warning", "config show"),
    ("no-resource", refusal("UnknownResource"), "refused-unknownresource", "warning", "blockpair create r0"),
    ("other-resource", refusal("OtherResource"), "refused-otherresource", "critical", "create r0 --anew"),
    ("unknown-node", refusal("UnknownNode"), "refused-unknownnode", "warning", "`a`"),
    ("garbage", refusal("ProtocolError"), "refused-protocolerror", "warning", "logs"),
    ("two-primaries", engine(peer(role="Primary")), "two-primaries", "critical", "blockpair demote r0"),
    ("peer-gave-its-disk-up", refusal("Diskless"), "peer-diskless", "critical", "on b: mend"),
    ("peer-diskless", engine(peer(disk="Diskless")), "peer-diskless", "critical", "on b:"),
    ("path-down", engine(peer(paths=[ACTIVE, DOWN])), "path-down", "warning", "10.1.0.2:7788"),
    ("left-over", engine(peer(out_of_sync_bytes=4096)), "out-of-sync", "warning", "connect r0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code", "severity", "remedy"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_each_state_is_named_with_what_to_do_next(
    status: EngineStatus, code: str, severity: str, remedy: str
) -> None:
    found = {entry.code: entry for entry in advice("r0", "running", None, status)}
    assert code in found, found
    assert found[code].severity == severity
    assert remedy in found[code].remedy
    assert "{" not in found[code].text + found[code].remedy
    assert healthy(found.values()) == (severity == "info")


def test_all_is_well() -> None:
    assert advice("r0", "running", None, engine()) == []
    assert advice("r0", "running", None, engine(peer(role="Primary"), role="Secondary")) == []


def test_a_path_in_reserve_is_worth_no_word_and_one_that_is_down_is() -> None:
    assert advice("r0", "running", None, engine(peer(paths=[ACTIVE, STANDBY]))) == []
    (entry,) = advice("r0", "running", None, engine(peer(paths=[DOWN, ACTIVE])))
    assert "10.1.0.2:7788 to b is down for 1m 30s (no route to host)" in entry.text
    assert "goes on over 10.0.0.2:7788" in entry.text
    # The peer's absence is told once, with every address that was tried.
    nowhere = away(paths=[DOWN, ACTIVE | {"state": "down"}])
    (entry,) = advice("r0", "running", None, engine(nowhere))
    assert entry.code == "unreachable" and "10.1.0.2:7788, 10.0.0.2:7788" in entry.text


def test_all_paths_are_shown_where_there_are_several() -> None:
    shown = "\n".join(line.plain for line in resource_lines(report(engine(peer(paths=[ACTIVE, DOWN])))))
    assert "10.0.0.2:7788 active, 10.1.0.2:7788 down" in shown
    assert "standby" not in "\n".join(line.plain for line in resource_lines(report(engine())))


def test_settings_that_are_not_in_use_yet_are_told() -> None:
    found = advice("r0", "running", None, engine(), pending=["protocol", "timeouts.peer"])
    assert [(entry.code, entry.severity) for entry in found] == [("pending-settings", "warning")]
    assert "protocol, timeouts.peer" in found[0].text and "blockpair down r0" in found[0].remedy
    assert "one after the other" in found[0].remedy
    [arbiter] = advice("r0", "running", None, engine(), pending=["arbiter"])
    assert arbiter.remedy.endswith("Primary first: blockpair down r0; then on both: blockpair up r0")
    found = advice("r0", "running", None, engine(), misconfigured="r0.toml: protocol: is none of its values")
    assert [entry.code for entry in found] == ["misconfigured"]
    assert "is none of its values" in found[0].text


def test_down_and_failed() -> None:
    assert [e.code for e in advice("r0", "down", None, None)] == ["down"]
    (failed,) = advice("r0", "failed", "it broke", None)
    assert failed.severity == "critical" and "it broke" in failed.text


def test_the_gravest_comes_first() -> None:
    status = engine(away(), disk="Diskless", disk_error="EIO")
    severities = [entry.severity for entry in advice("r0", "running", None, status)]
    assert severities == ["critical", "warning"]


def test_a_node_without_a_disk_does_not_blame_its_peer() -> None:
    alone = away(connection="StandAlone", refusal={"reason": "Diskless", "text": "a has no usable disk"})
    assert [e.code for e in advice("r0", "running", None, engine(alone, disk="Diskless"))] == ["diskless"]


def test_a_primary_without_a_disk_says_who_stands_in() -> None:
    marked = peer(out_of_sync_bytes=4096)
    (entry,) = advice("r0", "running", None, engine(marked, disk="Diskless", served_by="b"))
    assert (entry.code, entry.severity) == ("diskless", "critical")
    assert "reads and writes go to b" in entry.text and "blockpair demote r0" in entry.remedy


def test_what_was_mended_is_told_with_the_error() -> None:
    status = engine(disk_error="EIO")
    healed = msgspec.structs.replace(status.io, healed_reads=2, healed_bytes=8192)
    (entry,) = advice("r0", "running", None, msgspec.structs.replace(status, io=healed))
    assert "2 failed reads (8 KiB)" in entry.text


def test_what_is_out_of_sync_is_told_in_bytes() -> None:
    (entry,) = advice("r0", "running", None, engine(away(out_of_sync_bytes=3 << 20)))
    assert "3 MiB out of sync" in entry.text


def test_a_kernel_device_that_could_not_be_made_is_told() -> None:
    device = KernelDeviceStatus(attached=False, error="no nbd")
    assert [e.code for e in advice("r0", "running", None, engine(), device)] == ["kernel-device"]


@pytest.mark.parametrize(
    ("status", "true"),
    [
        (
            engine(),
            {"up", "healthy", "connected", "established", "uptodate", "synced", "protected", "primary"},
        ),
        (engine(away()), {"up", "disconnected", "uptodate", "primary"}),
        (engine(away(connection="StandAlone")), {"up", "disconnected", "standalone", "uptodate", "primary"}),
        (
            engine(peer(replication="SyncTarget"), **NEW),
            {"up", "connected", "syncing", "secondary"},
        ),
        (engine(peer(), resuming=True), {"up", "connected", "established", "uptodate", "synced"}),
        (engine(peer(out_of_sync_bytes=1)), {"up", "connected", "established", "uptodate", "primary"}),
        (engine(peer(full_sync=True)), {"up", "connected", "established", "uptodate", "primary"}),
    ],
)
def test_conditions(status: EngineStatus, true: set[str]) -> None:
    assert {name for name in CONDITIONS if holds(name, report(status))} == true


def test_nothing_but_down_holds_of_a_resource_that_is_down() -> None:
    assert {name for name in CONDITIONS if holds(name, report(None, "down"))} == {"down"}
    assert missing(["down", "up"], report(None, "down")) == ["up"]


def test_progress_on_a_line() -> None:
    status = engine(peer(replication="SyncSource", resync=msgspec.to_builtins(resync())))
    assert plain(report(status)) == "r0: 1 GiB of 4 GiB (25.0 %), 95.4 MiB/s, 32 s left"
    assert plain(report(engine())) == "r0: in sync"


def test_a_split_brain_says_why_nobody_gives_way() -> None:
    known = "split brain: a and b were both written without each other; nothing was overwritten"
    for said, expected in (
        (f"{known}. Both have changes. See `blockpair resolve r0`", f"{known}. Both have changes"),
        ("b keeps its changes: no room", f"{known}. b keeps its changes: no room"),
        ("", known),
    ):
        (entry,) = advice("r0", "running", None, split(said))
        assert entry.text == expected


def test_a_split_brain_is_left_to_the_policy_only_where_there_is_one() -> None:
    for policy, lines in (("priority", 5), ("manual", 4)):
        status = msgspec.structs.replace(split(), split_brain_policy=policy)
        (entry,) = advice("r0", "running", None, status)
        assert len(entry.remedy.splitlines()) == lines and "blockpair demote r0" in entry.remedy


def test_waiting_for_a_sync_ends_where_no_waiting_helps() -> None:
    for status in (split(), engine(disk="Diskless"), refusal("Size")):
        assert hopeless(report(status)) is not None
    for status in (engine(away()), engine(peer(replication="SyncSource")), refusal("UnknownResource")):
        assert hopeless(report(status)) is None


def test_following_a_sync_is_quiet_until_it_had_time_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0

    def follow(away_seconds: float) -> str:
        nonlocal now
        now = 0.0

        def fetch() -> ResourceReport:
            nonlocal now
            now += 0.1
            return report(engine(away()) if now < away_seconds else engine(peer()))

        show(fetch, None, 0.0, lambda: now)
        return capsys.readouterr().err

    assert "not connected" not in follow(1.0) and "in sync" in follow(1.0)
    assert "waiting: " in follow(3.0)


def test_what_a_crash_made_suspect_is_no_lack_of_changes() -> None:
    for marked, suspect, expected in (
        (0, 4 << 20, "4 MiB may differ"),
        (8192, 4 << 20, "8 KiB out of sync, 4 MiB may differ"),
        (8192, 0, "8 KiB out of sync"),
    ):
        status = engine(away(out_of_sync_bytes=marked, suspect_bytes=suspect))
        (entry,) = advice("r0", "running", None, status)
        assert entry.text.endswith(f"; {expected}")
        assert expected in "\n".join(line.plain for line in resource_lines(report(status)))


def test_force_is_not_advised_where_it_decides_nothing() -> None:
    torn = {"role": "Secondary", "disk": "Consistent"}
    split_peer = away(connection="StandAlone", split_brain=True, rule="split-brain")
    for status in (engine(away(), resuming=True, **torn), engine(split_peer, **torn)):
        entries = advice("r0", "running", None, status)
        assert entries and not any("--force" in entry.remedy for entry in entries)


@pytest.mark.parametrize(
    ("outside", "code", "next_step"),
    [
        (Outside(no_cluster=True), "no-cluster", "join the cluster of b"),
        (Outside(distrusted=frozenset("b")), "no-member", "blockpair cluster remove a --lost"),
    ],
)
def test_a_node_that_is_no_member_waits_for_nobody(outside: Outside, code: str, next_step: str) -> None:
    for status in (engine(away()), engine(away(untrusted="b:7788: unknown issuer"))):
        (entry,) = advice("r0", "running", None, status, outside=outside)
        assert entry.code == code and next_step in entry.remedy
        assert "by itself" not in entry.remedy


def test_outside_a_cluster_up_alone_is_no_advice() -> None:
    (entry,) = advice("r0", "down", None, None, outside=Outside(no_cluster=True))
    assert entry.code == "down" and "cluster token" in entry.remedy


def _dialled(listen: str, *paths: dict[str, Any], **changes: Any) -> EngineStatus:
    """Node b, which a dials at two addresses, and knows one of a's."""
    status = engine(peer(name="a", role="Primary", paths=list(paths), **changes), node="b", role="Secondary")
    own = OwnPlace((Address("10.0.0.9", 7788), Address("10.1.0.9", 7788)), Address(listen, 7788), Path("f"))
    return named(status, own, {"a": 1})


def test_who_is_dialled_names_a_path_by_its_own_address() -> None:
    second = DOWN | {"address": "number 2"}
    status = _dialled("0.0.0.0", ACTIVE, second)
    assert [(path.address, path.own) for path in status.peers[0].paths] == [
        ("10.0.0.2:7788", False),
        ("10.1.0.9:7788", True),
    ]
    (entry,) = advice("r0", "running", None, status)
    assert "from a to 10.1.0.9:7788, here," in entry.text and "cable" in entry.remedy
    shown = "\n".join(line.plain for line in resource_lines(report(status)))
    assert "10.1.0.9:7788 (own) down" in shown
    # The cause is here: not the cable.
    (entry,) = advice("r0", "running", None, _dialled("10.0.0.9", ACTIVE, second))
    assert 'listen = "10.0.0.9:7788" in [node] of f' in entry.text and "cable" not in entry.remedy
    # What is not connected has the peer's addresses, and so has who dials.
    away_paths = [DOWN, DOWN]
    assert _dialled("10.0.0.9", *away_paths, connection="Connecting").peers[0].paths[1].heard


@pytest.mark.parametrize(
    ("listen", "host", "heard"),
    [
        ("0.0.0.0", "10.0.0.1", True),
        ("0.0.0.0", "fd00::1", False),
        ("::", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.1.0.1", False),
        ("alpha", "10.1.0.1", True),
    ],
)
def test_what_a_listener_hears(listen: str, host: str, heard: bool) -> None:
    assert hears(listen, host) is heard
