"""Two nodes, a witness, and one of the three lost: who goes on, how soon, and what status says meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blockpair.config.arbitration import PROFILES, Profile
from tests.e2e.cluster import Cluster, eventually
from tests.e2e.nbd_client import Command, NbdClient
from tests.e2e.trio import (
    BLOCK,
    Trio,
    Writer,
    advice,
    arbitration,
    configuration,
    content,
    engine,
    first_write,
    kept,
    told,
)

# A busy machine must fail no test; `scripts/bench failover` measures.
GENEROUS_S = 5.0


@pytest.fixture
def wired(base: Path) -> Iterator[Trio]:
    """The link between the nodes can be cut."""
    with closing(Trio(base, wired=True)) as made:
        yield made


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_the_survivor_takes_over_by_itself(trio: Trio, cluster: Cluster, profile: Profile) -> None:
    trio.synced(profile)
    writer = Writer(trio.a)
    writer.wrote(50)
    began = time.monotonic()
    trio.a.kill()
    took = first_write(trio.b, 4000, began)
    print(f"{profile}: writable again after {took:.3f} s")
    writer.ended()
    assert took < PROFILES[profile].lease + 0.5 + GENEROUS_S
    epoch = trio.entered("b", "b")
    assert epoch == 3, "created, grown, promoted"
    assert kept(trio.b.disk, writer.acknowledged)
    # The lost one comes back, and rejoins by itself: no split brain, though nobody asked it.
    trio.a.start()
    trio.entered("b", "a", "b")
    trio.b.wait("synced")
    assert engine(trio.a)["role"] == "Secondary"
    trio.cluster.assert_equal(trio.b)


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_a_surviving_primary_stalls_for_a_moment(trio: Trio, cluster: Cluster, profile: Profile) -> None:
    trio.synced(profile)
    writer = Writer(trio.a)
    writer.wrote(50)
    began = time.monotonic()
    trio.b.kill()
    writer.wrote(100)
    stall = writer.longest_stall(began)
    print(f"{profile}: stalled for {stall:.3f} s")
    writer.stop()
    assert stall < PROFILES[profile].patience + GENEROUS_S
    trio.entered("a", "a")
    trio.b.start()
    trio.entered("a", "a", "b")
    trio.b.wait("synced")
    trio.cluster.assert_equal()


def test_with_link_and_witness_gone_writes_wait_and_the_link_alone_releases_them(
    wired: Trio, cluster: Cluster
) -> None:
    wired.synced("fast")
    a, b = wired.a, wired.b
    writer = Writer(a, deadline=120)
    writer.wrote()
    wired.witness.kill()
    wired.cut()
    found = told(a, "suspended", lambda entry: "unreachable" in entry["text"])
    assert f"witness 127.0.0.1:{wired.witness.port} unreachable" in found["text"]
    assert "peer b silent for" in found["text"] and "goes on when either answers" in found["text"]
    assert "blockpair promote r0 --force" in found["remedy"]
    before = len(writer.acknowledged)
    assert a.cli("status", "r0").code == 4
    assert engine(b)["role"] == "Secondary"
    # Reads are served only while the peer's word holds.
    eventually(lambda: arbitration(a)["suspended"] == "all", "reads wait too")
    assert "reads and writes wait" in told(a, "suspended")["text"]
    assert len(writer.acknowledged) <= before + 1
    epoch = configuration(a)["epoch"]
    wired.mend()
    writer.wrote(20)
    writer.stop()
    # A campaign that failed may have cost an epoch; nobody was entered but a with b.
    found = configuration(a)
    assert found["primary"] == "a" and found["in_sync"] == ["a", "b"] and found["epoch"] >= epoch
    assert advice(a, "suspended") is None
    cluster.assert_equal()


def test_with_the_link_cut_the_witness_lets_one_of_them_go_on(wired: Trio, cluster: Cluster) -> None:
    wired.synced("fast")
    a, b = wired.a, wired.b
    writer = Writer(a, deadline=120)
    writer.wrote()
    wired.cut()
    eventually(
        lambda: any((configuration(n) or {}).get("in_sync") == [n.name] for n in (a, b)), "one goes on"
    )
    [winner] = [n for n in (a, b) if (configuration(n) or {}).get("in_sync") == [n.name]]
    if winner is a:
        writer.wrote(20)
        writer.stop()
    else:
        first_write(b, 4000, time.monotonic())
        writer.ended()
    assert [n.name for n in (a, b) if engine(n)["role"] == "Primary" and not arbitration(n)["suspended"]] == [
        winner.name
    ]
    wired.mend()
    wired.entered(winner.name, "a", "b")
    winner.wait("synced")
    cluster.assert_equal(winner)
    assert kept(winner.disk, writer.acknowledged)


def test_a_primary_that_was_frozen_is_superseded_and_comes_back_by_itself(
    trio: Trio, cluster: Cluster
) -> None:
    trio.synced("fast")
    a, b = trio.a, trio.b
    writer = Writer(a, deadline=120)
    writer.wrote(50)
    with a.silent():
        first_write(b, 4000, time.monotonic())
        on_b = Writer(b, first=3000)
        on_b.wrote(20)
        acknowledged = len(writer.acknowledged)
    # It wakes, and its applications get errors. What b had confirmed before it took over may still be
    # answered: b has it.
    writer.ended()
    assert len(writer.acknowledged) <= acknowledged + 1
    on_b.wrote(20)
    on_b.stop()
    trio.entered("b", "a", "b")
    b.wait("synced")
    assert "superseded" in a.log.read_text()
    assert engine(a)["role"] == "Secondary" and not engine(a)["peers"][0]["split_brain"]
    assert kept(b.disk, [*writer.acknowledged, *on_b.acknowledged, 4000])
    cluster.assert_equal(b)
    # It is a node as any other again.
    b.ok("demote", "r0")
    a.ok("promote", "r0")
    trio.entered("a", "a", "b")
    with NbdClient(a.nbd) as client:
        client.write(0, content(77))
        assert client.read(4000 * BLOCK, BLOCK) == content(4000)


def test_a_primary_that_wakes_up_reads_nothing_of_the_past_to_anybody(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    a, b = trio.a, trio.b
    with NbdClient(a.nbd) as client:
        client.write(0, content(1))
        assert client.read(0, BLOCK) == content(1)
        with a.silent():
            # It finds this when it wakes up, before it hears of anything else.
            client.send(Command.READ, 0, BLOCK)
            first_write(b, 1, time.monotonic())
            with NbdClient(b.nbd) as newer:
                newer.write(0, content(2))
        try:
            answer = client.reap()
        except ConnectionError:
            answer = None
    assert answer is None or answer.error, "what it read was overwritten before it answered"
    trio.entered("b", "a", "b")
    b.wait("synced")
    cluster.assert_equal(b)


def test_a_planned_move_keeps_both_in_sync(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    before = trio.entered("a", "a", "b")
    with NbdClient(trio.a.nbd) as client:
        client.write(0, content(1))
    trio.a.ok("demote", "r0")
    trio.b.ok("promote", "r0")
    assert trio.entered("b", "a", "b") > before
    with NbdClient(trio.b.nbd) as client:
        assert client.read(0, BLOCK) == content(1)
    cluster.assert_equal(trio.b)


def test_both_restarted_the_primary_goes_on_in_a_new_epoch(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    a, b = trio.a, trio.b
    before = trio.entered("a", "a", "b")
    with NbdClient(a.nbd) as client:
        client.write(0, content(1))
    for node in (b, a):
        node.stop()
    trio.cluster.start()
    a.wait("primary")
    assert trio.entered("a", "a", "b") > before
    with NbdClient(a.nbd) as client:
        assert client.read(0, BLOCK) == content(1)
        client.write(BLOCK, content(2))
    a.wait("synced")
    cluster.assert_equal()


def test_the_daemon_of_the_primary_restarted_resumes_with_the_arbiters_word(
    trio: Trio, cluster: Cluster
) -> None:
    trio.synced()
    trio.b.stop()
    before = trio.entered("a", "a")
    trio.a.stop()
    trio.a.start()
    trio.a.wait("primary")
    assert trio.entered("a", "a") > before
    with NbdClient(trio.a.nbd) as client:
        client.write(0, content(1))


def test_a_promotion_by_force_says_what_it_risks_and_is_found_again(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    a, b = trio.a, trio.b
    with NbdClient(a.nbd) as client:
        client.write(0, content(1))
    trio.witness.kill()
    a.kill()
    told(b, "campaign", lambda entry: "unreachable" in entry["text"])
    assert "nobody can write" in told(b, "campaign")["text"]
    # Nobody is there to type the name.
    said = b.refused(2, "promote", "r0", "--force")
    assert "as Primary, UpToDate" in said and "at most 16 MiB" in said and "--yes" in said
    assert engine(b)["role"] == "Secondary"
    b.ok("promote", "r0", "--force", "--yes")
    assert first_write(b, 1, time.monotonic()) < GENEROUS_S
    assert "role.forced" in b.ok("history", "r0").out
    # The register hears of it, and the other one too: it had written nothing since.
    trio.witness.start()
    trio.entered("b", "b")
    a.start()
    trio.entered("b", "a", "b")
    b.wait("synced")
    cluster.assert_equal(b)


def test_a_promotion_waits_for_the_arbiter_and_says_so(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    a, b = trio.a, trio.b
    a.ok("demote", "r0")
    a.stop()
    trio.witness.kill()
    asking = subprocess.Popen(
        [sys.executable, "-m", "blockpair.cli.main", "promote", "r0", "--timeout", "60s"],
        env=b.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert asking.stderr is not None
    first = asking.stderr.readline()
    assert "r0: waits: the arbiter is to let this node take over" in first
    # Without that option it is for some seconds alone.
    assert "the arbiter cannot be reached" in b.refused(1, "promote", "r0")
    trio.witness.start()
    out, err = asking.communicate(timeout=60)
    assert asking.returncode == 0, first + err
    assert "r0 is Primary on this node" in out
    trio.entered("b", "b")


def test_by_protocol_a_nobody_takes_over_by_itself(trio: Trio, cluster: Cluster) -> None:
    trio.form()
    said = trio.create("fast", "--protocol", "A")
    assert "failover: manual" in said and "protocol A" in said
    a, b = trio.a, trio.b
    trio.served_by_a()
    trio.entered("a", "a", "b")
    assert "no failover without a person" in b.cli("status", "r0").out
    a.kill()
    eventually(lambda: (engine(b)["peers"][0]["last_contact_seconds"] or 0) > 2, "a is lost for long")
    assert engine(b)["role"] == "Secondary" and arbitration(b)["want"] is None
    # A person may, and the arbiter has the word.
    b.ok("promote", "r0")
    trio.entered("b", "b")


def test_a_witness_that_is_away_is_told_of_and_nothing_waits(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    looked = trio.a.cli("cluster", "status")
    assert looked.code == 0 and f"witness 127.0.0.1:{trio.witness.port}, reachable in" in looked.out
    trio.witness.kill()
    looked = trio.a.cli("cluster", "status")
    assert looked.code == 4 and "UNREACHABLE" in looked.out and "connection refused" in looked.out.lower()
    writer = Writer(trio.a)
    writer.wrote(100)
    writer.stop()


def test_a_peer_that_was_brought_up_without_the_arbiter_protects_nobody(trio: Trio) -> None:
    """Taken down and up one after the other, as no page says: only the Primary goes by the arbiter."""
    a, b = trio.a, trio.b
    trio.synced("fast")
    a.ok("config", "edit", "--set", "resource.r0.arbiter=manual")
    for step in ("down", "up"):
        for node in (a, b):
            node.ok(step, "r0")
    a.wait("synced")
    # Without an arbiter a person decides; what the other has is all the same all.
    a.ok("promote", "r0")
    a.wait("protected")
    told = a.ok("config", "edit", "--unset", "resource.r0.arbiter")
    assert "blockpair down r0 (on a and b, Primary first)" in told.out
    a.ok("demote", "r0")
    a.ok("down", "r0")
    a.ok("up", "r0")
    a.wait("connected")
    a.ok("promote", "r0")
    a.wait("synced")
    assert a.cli("wait", "r0", "--until", "protected", "--timeout", "3s").code == 1
    b.ok("down", "r0")
    b.ok("up", "r0")
    a.wait("protected")


def test_the_grown_set_waits_for_a_witness_that_is_away(trio: Trio, cluster: Cluster) -> None:
    trio.synced("fast")
    trio.b.kill()
    trio.entered("a", "a")
    trio.witness.kill()
    trio.b.start()
    trio.a.wait("established")
    entry = told(trio.a, "arbiter-awaited")
    assert "does not take over by itself" in entry["text"]
    waited = trio.a.cli("wait", "r0", "--until", "protected", "--timeout", "3s")
    assert waited.code == 1
    lacks = "Primary, UpToDate; b Connected/Established/UpToDate; at the arbiter: Primary a, in sync a\n"
    assert f"r0: not protected yet: it is {lacks}" in waited.err
    assert f"r0 is not protected after 3 s: it is {lacks}" in waited.err
    writer = Writer(trio.a)
    writer.wrote(20)
    writer.stop()
    trio.witness.start()
    trio.a.wait("protected")
    trio.entered("a", "a", "b")
    assert told_nothing(trio, "arbiter-awaited")


def told_nothing(trio: Trio, code: str) -> bool:
    eventually(lambda: advice(trio.a, code) is None, f"{code} is told no more")
    return True


def test_an_arbiter_is_appointed_and_dismissed_one_node_after_the_other(trio: Trio, cluster: Cluster) -> None:
    trio.join()
    trio.create("fast")
    a, b = trio.a, trio.b
    trio.served_by_a()
    trio.appoint()
    assert "configured and not in use yet: arbiter" in a.cli("status", "r0").out
    for node in (b, a):
        node.ok("down", "r0")
        node.ok("up", "r0")
        a.wait("connected")
    a.ok("promote", "r0")
    trio.entered("a", "a", "b")
    with NbdClient(a.nbd) as client:
        client.write(0, content(1))
    a.kill()
    first_write(b, 1, time.monotonic())
    a.start()
    trio.entered("b", "a", "b")
    b.wait("synced")
    # And back: a person decides again.
    b.ok("config", "edit", "--set", "resource.r0.arbiter=manual")
    for node in (a, b):
        node.ok("down", "r0")
        node.ok("up", "r0")
    b.wait("connected")
    b.ok("promote", "r0")
    assert engine(b)["arbitration"] is None
    assert 'the resource says arbiter = "manual"' in str(b.status()["arbiter"]["manual_because"])
    with NbdClient(b.nbd) as client:
        assert client.read(0, BLOCK) == content(1)
    b.wait("synced")
    cluster.assert_equal(b)


def test_two_that_do_not_both_go_by_the_arbiter_make_no_second_primary(trio: Trio, cluster: Cluster) -> None:
    trio.join()
    trio.create("fast")
    a, b = trio.a, trio.b
    trio.served_by_a()
    trio.appoint()
    # b goes by it already, and hears nothing of a, which a person has made Primary.
    b.ok("down", "r0")
    with a.silent():
        b.ok("up", "r0")
        b.refused(3, "promote", "r0")
    b.wait("connected,secondary")


def test_who_went_by_an_arbiter_does_not_resume_alone_when_it_is_dismissed(
    wired: Trio, cluster: Cluster
) -> None:
    wired.synced("fast")
    a, b = wired.a, wired.b
    a.ok("config", "edit", "--set", "resource.r0.arbiter=manual")
    wired.cut()
    a.kill()
    # b still goes by the arbiter, as it was brought up.
    first_write(b, 1, time.monotonic())
    a.start()
    # Longer than it waits for its peer's word (timeouts.resume_wait).
    end = time.monotonic() + 7
    while time.monotonic() < end:
        found = engine(a)
        assert found["role"] == "Secondary" or found["resuming"], "two writers"
        time.sleep(0.1)
    a.refused(3, "promote", "r0")
    wired.mend()
    a.wait("connected,secondary", timeout="60s")


def test_without_an_arbiter_create_says_that_failover_is_manual_and_why(trio: Trio, cluster: Cluster) -> None:
    made = trio.cluster
    made.form()
    for node in made.nodes:
        with node.disk.open("wb") as disk:
            disk.truncate(16 << 20)
    said = made.a.ok("create", "r0", "--on", f"a={made.a.disk},b={made.b.disk}").out
    assert "failover: manual, a person promotes: the cluster has no arbiter" in said
    assert "arbiter.kind=witness" in said
    assert "arbiter      manual: no failover without a person" in made.a.cli("status", "r0").out
    assert "none: no failover without a person" in made.a.cli("cluster", "status").out
    assert made.a.status()["arbiter"]["automatic"] is False


def test_a_node_without_a_cluster_says_so_too(trio: Trio, cluster: Cluster) -> None:
    made = trio.cluster
    made.start()
    with made.a.disk.open("wb") as disk:
        disk.truncate(16 << 20)
    said = made.a.ok("create", "r0", "--device", str(made.a.disk), *made.peer_option(made.a)).out
    assert "failover: manual" in said and "in no cluster" in said
