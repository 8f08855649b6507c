"""Events of real daemons: recorded, shown with and without the daemon, delivered, and not lost when it is
killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Cluster, Node, eventually
from tests.receivers import HttpReceiver, SmtpReceiver


def events(node: Node, *more: str) -> list[dict[str, Any]]:
    """What the command shows."""
    return [
        json.loads(line) for line in node.ok("events", "--json", "--limit", "1000", *more).out.splitlines()
    ]


def kinds(node: Node, *more: str) -> list[str]:
    return [one["what"] for one in events(node, *more)]


def hook(node: Node, name: str, script: str) -> Path:
    folder = node.dir / "config/hooks.d"
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_the_stream_has_what_happened_also_while_the_daemon_is_down(cluster: Cluster) -> None:
    cluster.synced()
    a = cluster.a
    eventually(lambda: "role.primary" in kinds(a, "r0"), "the promotion is an event")
    found = events(a)
    assert [one["seq"] for one in found] == list(range(1, len(found) + 1))
    assert {"daemon.ready", "resource.up", "resync.finished", "peer.established"} <= {
        one["what"] for one in found
    }
    assert all(one["node"] == "a" and one["time"].endswith("Z") for one in found)
    assert "daemon.ready" not in kinds(a, "r0")
    cluster.b.kill()
    eventually(lambda: "peer.lost" in kinds(a, "r0", "--severity", "warning"), "the loss of b is an event")
    text = a.ok("events", "r0", "--kind", "peer.lost").out
    assert "warning  peer.lost r0: connection to b ended" in text and "    next: " in text
    before = kinds(a)
    a.kill()
    assert kinds(a)[: len(before)] == before
    # A crash of the machine tears the last line.
    [file] = (a.dir / "state/events").glob("*.jsonl")
    with file.open("ab") as stream:
        stream.write(b'{"seq": 99')
    assert kinds(a)[: len(before)] == before
    a.start()
    assert kinds(a).count("events.torn") == 1
    a.stop()
    a.start()
    assert kinds(a).count("events.torn") == 1
    assert kinds(a, "--since", "2100-01-01") == [] and len(kinds(a, "--since", "1h")) == len(kinds(a))
    assert a.cli("events", "--since", "yesterday").code == 2


def test_follow_goes_on_over_a_restart_of_the_daemon(cluster: Cluster) -> None:
    cluster.start()
    a = cluster.a
    with subprocess.Popen(
        [sys.executable, "-m", "blockpair.cli.main", "events", "--follow", "--json"],
        env=a.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["what"]
            seen: list[str] = []
            a.stop()
            a.start()
            while seen.count("daemon.ready") < 1 or "daemon.stopping" not in seen:
                seen.append(json.loads(process.stdout.readline())["what"])
            assert seen.index("daemon.stopping") < len(seen) - 1
        finally:
            process.kill()


def test_a_hook_a_url_and_a_mailbox_have_the_event(cluster: Cluster) -> None:
    a = cluster.a
    with HttpReceiver() as web, SmtpReceiver() as post:
        a.configure(
            f'[notify.webhook.ops]\nurl = "{web.url}"\nkinds = ["peer.*"]\n'
            f'[notify.mail]\nhost = "127.0.0.1"\nport = {post.port}\nsecurity = "off"\n'
            'from = "a@example.org"\nto = ["ops@example.org"]\nkinds = ["peer.*"]\n'
        )
        out = a.dir / "out"
        hook(a, "10-keep", f'cat >> {out}; echo "$BLOCKPAIR_EVENT" >> {out}.names')
        cluster.synced()
        cluster.b.kill()
        eventually(lambda: any(one["what"] == "peer.lost" for one in web.bodies), "the URL has the event")
        eventually(lambda: any("Kind: peer.lost" in one for one in post.messages), "the mailbox has it")
        eventually(lambda: out.exists() and "peer.lost" in out.read_text(), "the hook has it")
    lost = next(one for one in web.bodies if one["what"] == "peer.lost")
    assert lost == next(one for one in events(a) if one["seq"] == lost["seq"])
    assert all(one["severity"] != "info" for one in web.bodies)
    by_hook = [json.loads(line) for line in out.read_text().splitlines()]
    assert by_hook == [
        one for one in events(a) if one["seq"] <= by_hook[-1]["seq"] and one["seq"] >= by_hook[0]["seq"]
    ]
    assert (a.dir / "out.names").read_text().split() == [one["what"] for one in by_hook]


def test_a_killed_daemon_loses_nothing_that_it_has_recorded(cluster: Cluster) -> None:
    a = cluster.a
    up = [False]
    with HttpReceiver(lambda _: 204 if up[0] else 503) as web:
        a.configure(f'[notify.webhook.ops]\nurl = "{web.url}"\nseverity = "info"\n')
        cluster.synced()
        for _ in range(3):
            a.ok("disconnect", "r0")
            a.ok("connect", "r0")
            a.wait("synced")
            recorded = {one["seq"] for one in events(a)}
            a.kill()
            a.start()
            assert recorded <= {one["seq"] for one in events(a)}
        a.wait("primary,synced")
        assert kinds(a).count("notify.failed") >= 1
        recorded = {one["seq"] for one in events(a) if not one["what"].startswith("notify.")}
        up[0] = True
        eventually(
            lambda: recorded <= {one["seq"] for one in web.bodies}, "all that was recorded was delivered"
        )
        had = [one["seq"] for one in web.bodies]
        assert had == sorted(set(had)), "in order, and none twice that was delivered"
    assert a.dir.joinpath("state/deliveries/webhook-ops.json").exists()


def test_the_deliveries_are_tested_by_a_command(cluster: Cluster) -> None:
    a = cluster.a
    cluster.start()
    none = a.cli("notify", "test")
    assert none.code == 1 and "nothing is configured" in none.out
    with HttpReceiver() as web, HttpReceiver(lambda _: 404) as broken:
        a.configure(f'[notify.webhook.ops]\nurl = "{web.url}"\nseverity = "error"\n')
        hook(a, "10-fine", "exit 0")
        done = a.ok("notify", "test")
        assert "webhook ops" in done.out and "delivered" in done.out and "restart blockpaird" in done.out
        assert web.bodies[-1]["what"] == "notify.test"
        a.configure(f'[notify.webhook.ops]\nurl = "{broken.url}"\n')
        hook(a, "20-broken", "echo no good >&2; exit 1")
        failed = a.cli("notify", "test", "--json")
        assert failed.code == 1
        told = {one["target"]: one["problem"] for one in failed.json()["targets"]}
        assert told["hooks"] == "20-broken: no good" and "404" in told["webhook ops"]
        a.configure('[notify.webhook.ops]\nurl = "nowhere"\n')
        wrong = a.cli("notify", "test")
        assert wrong.code == 1 and "notify.webhook.ops.url" in wrong.err and "remedy" in wrong.err


def test_the_daemon_tells_its_health_and_what_its_peer_tells(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    for node in cluster.nodes:
        with node.disk.open("wb") as disk:
            disk.truncate(16 << 20)
    a.ok("create", "r0", "--on", f"a={a.disk},b={b.disk}")
    shown = a.cli("health", "--json").json()
    assert shown["node"] == "a" and 0 <= shown["smoothed"] <= 100 and shown["parts"]
    [peer] = shown["peers"]
    assert peer["node"] == peer["health"]["node"] == "b" and peer["problem"] is None
    assert "peer b: " in a.cli("health").out
    b.kill()
    assert "cannot be reached" in a.cli("health", "--json").json()["peers"][0]["problem"]
    a.kill()
    assert a.cli("health", "--json").json()["peers"] == []
