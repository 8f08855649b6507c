"""`blockpair plan`: what a connect would do, from either node, and without doing it."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from threading import Thread
from typing import Any

from tests.e2e.cluster import Cluster, Node
from tests.e2e.test_split_brain import part
from tests.e2e.test_strangers import frame, read_frame

BLOCK = 4096


def planned(node: Node, code: int = 0) -> Any:
    """The plan on a node, which ends with ``code``."""
    done = node.cli("plan", "r0", "--json")
    assert done.code == code, done
    return done.json()


def test_what_is_planned_is_what_a_connect_does(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    assert planned(a)["decision"]["rule"] == "same"
    a.ok("disconnect", "r0")
    b.wait("disconnected")
    a.write(0, b"x" * 3 * BLOCK)
    before = [node.disk.read_bytes() for node in cluster.nodes]
    for node, rule, direction in ((a, "self-ahead", "source"), (b, "peer-ahead", "target")):
        plan = planned(node)
        decision = plan["decision"]
        assert (decision["rule"], decision["direction"]) == (rule, direction)
        assert (decision["source"], decision["target"], decision["victim"]) == ("a", "b", None)
        assert decision["compared"]["bytes"] >= 3 * BLOCK
        assert {plan["own"]["node"]: plan["own"], plan["other"]["node"]: plan["other"]}["a"][
            "dirty_blocks"
        ] == 3
        assert "b is synced from a" in node.ok("plan", "r0").out
    # Asking has changed nothing: not the data, not the connection, not what the metadata say.
    assert [node.disk.read_bytes() for node in cluster.nodes] == before
    assert a.status()["engine"]["peers"][0]["connection"] == "StandAlone"
    a.ok("connect", "r0")
    a.wait("synced")
    assert b.status()["engine"]["peers"][0]["rule"] == "peer-ahead"
    assert cluster.assert_equal()[: 3 * BLOCK] == b"x" * 3 * BLOCK


def test_a_running_connection_goes_on_while_it_is_asked(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    events = [node.status()["events"] for node in cluster.nodes]
    assert planned(a)["decision"]["direction"] == planned(b)["decision"]["direction"] == "established"
    for node, before in zip(cluster.nodes, events, strict=True):
        assert node.status()["engine"]["peers"][0]["connection"] == "Connected"
        # The same connection: none was lost, refused or made anew.
        assert node.status()["events"] == before


def test_a_split_brain_is_planned_alike_on_both(cluster: Cluster) -> None:
    cluster.synced()
    part(cluster)
    for node in cluster.nodes:
        plan = planned(node, 4)
        assert plan["decision"]["rule"] == "split-brain" and plan["decision"]["victim"] is None
        assert "discard-zero-changes" in plan["decision"]["reason"]
        assert all(side["role"] == "Primary" for side in (plan["own"], plan["other"]))
        text = node.cli("plan", "r0")
        assert text.code == 4 and "a would lose" in text.out and "b would lose" in text.out


def test_a_peer_that_is_away_or_no_peer_at_all(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    assert "no peer" in a.refused(1, "plan", "r0", "--peer", "c")
    a.refused(1, "plan", "r9")
    b.ok("down", "r0")
    done = a.cli("plan", "r0", "--json")
    assert done.code == 1 and "no resource r0 is up" in done.json()["problem"]
    assert done.json()["own"]["role"] == "Primary" and done.json()["decision"] is None
    assert "no resource r0 is up" in json.loads(done.err)["error"]["message"]
    b.kill()
    done = a.cli("plan", "r0")
    assert done.code == 1 and "Primary" in done.out and "remedy: " in done.err
    b.refused(5, "plan", "r0")


def test_a_refusal_before_any_rule_is_planned_too(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    a.ok("disconnect", "r0")
    b.ok("down", "r0")
    file = b.dir / "config/resources/r0.toml"
    file.write_text('split_brain = "manual"\n' + file.read_text())
    b.ok("up", "r0")
    plan = planned(a, 4)
    assert plan["decision"]["direction"] == "refuse" and plan["decision"]["goodbye"] == "Policy"
    assert "manual" in plan["decision"]["reason"]
    a.ok("connect", "r0")
    entry = next(entry for entry in a.status()["advice"] if entry["code"] == "refused-policy")
    assert "manual" in entry["text"] and "`split_brain`" in entry["remedy"]


def test_who_answers_nonsense_or_nothing_keeps_nobody_waiting(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    b.kill()
    with socket.create_server(("127.0.0.1", b.port)) as door:
        door.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = door.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")

        thread = Thread(target=serve, daemon=True)
        thread.start()
        done = a.cli("plan", "r0", "--json")
        door.shutdown(socket.SHUT_RDWR)
    assert done.code == 1 and "not a blockpair frame" in done.json()["problem"]
    assert a.status()["engine"]["role"] == "Primary"


def question(report: bool) -> bytes:
    """b's Hello to a that only asks."""
    intent = 4 if report else 3
    fixed = struct.pack(
        "<HHBBHQQQ16sI4BI", 1, 1, 3, 2, 0, 7, 16 << 20, 1, bytes(16), 4096, 2, 1, 1, intent, 0
    )
    return frame(1, fixed + b"r0" + b"b" + b"a")


def test_many_who_ask_and_say_more_disturb_nobody(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    with contextlib.ExitStack() as stack:
        for number in range(30):
            asker = stack.enter_context(socket.create_connection(("127.0.0.1", a.port), timeout=10))
            asker.sendall(question(report=number % 2 == 0) + b"garbage" * 100)
        # The connection that replicates is the same, and goes on.
        a.write(0, b"y" * BLOCK)
        cluster.assert_equal()
        for node in cluster.nodes:
            assert node.status()["engine"]["peers"][0]["connection"] == "Connected"
    with socket.create_connection(("127.0.0.1", a.port), timeout=60) as asker:
        asker.sendall(question(report=True))
        with asker.makefile("rb") as answer:
            kinds: list[int] = []
            while kinds[-1:] != [64]:
                kind, _, body = read_frame(answer)
                kinds.append(kind)
            assert json.loads(body)["node"] == "a"
            assert answer.read() == b""
    assert kinds == [1, 3, 48, 64]
    assert planned(b)["decision"]["direction"] == "established"
    assert [event for event in a.status()["events"] if event["name"] == "peer.lost"][1:] == []
