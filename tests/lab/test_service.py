"""A file system and an address follow the data between two real kernels: planned, and when the power goes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.lab.harness import Guest, Lab
from tests.lab.mounted import ADDRESS, VIP, down, in_step, up
from tests.lab.nodes import LINK, MOUNT, Node, eventually, make_pair
from tests.lab.trio import make_trio


class _Client:
    """In the guest of the witness: whom the address leads to."""

    def __init__(self, guest: Guest) -> None:
        self._command = guest.start(f"exec python -m tests.who_answers ask {ADDRESS} 0.02")

    def led_to(self, node: Node, since: int, timeout: float = 60) -> float:
        """Wait until ``node`` answers, after ``since`` changes; the silence before."""

        def changes() -> list[list[str]]:
            return [line.split() for line in self._command.stdout.splitlines()]

        eventually(
            lambda: len(changes()) > since and changes()[-1][0] == node.name,
            f"the address leads to {node.name}",
            timeout,
        )
        return float(changes()[-1][1])


def _serve(node: Node) -> None:
    server = node.guest.start(f"exec python -m tests.who_answers serve {node.name}")
    eventually(lambda: "serving" in server.stdout, f"{node.name} serves", 30)


@pytest.mark.timeout(500)
def test_the_file_system_and_the_address_follow_the_data(lab: Lab) -> None:
    (n1, n2), witness = make_trio(lab, "default")
    # The resource had no service when it was promoted: the file system is made, then the service is brought
    # up.
    n1.guest.run(f"mkfs.ext4 -q {LINK}")
    n1.cli(f"service set r0 --mount {MOUNT} --vip {VIP}")
    n1.cli("promote r0")
    up(n1)
    for node in (n1, n2):
        _serve(node)
    client = _Client(witness.guest)
    client.led_to(n1, 0)

    # Somebody works in the mount: named, and nothing has moved; then killed on demand.
    writer = n1.writer("first")
    told = n1.refused("switchover r0")
    assert f"(pid {writer.pid})" in told and "the service is up as before" in told, told
    up(n1)
    writer.advance(3)
    in_step(n1)
    moved = json.loads(n2.cli("switchover r0 --kill-users --json", 120))
    silence = client.led_to(n2, 1)
    print(
        f"switchover: stopped for {moved['stopped_seconds']:.2f} s, the client heard nothing for "
        f"{silence:.2f} s"
    )
    _tell(moved)
    up(n2)
    down(n1)
    writer.check(n2)

    # The power goes under a writer: the other node replays the journal, and has every file.
    in_step(n2)
    second = n2.writer("second")
    at = time.monotonic()
    n2.guest.power_cut()
    silence = client.led_to(n1, 2)
    print(
        f"power cut: the address led to the survivor after {time.monotonic() - at:.2f} s, "
        f"silent {silence:.2f} s"
    )
    up(n1)
    second.check(n1)
    writer.check(n1)

    # It comes back as Secondary, without any of it, and takes it again when it is asked.
    n2.power_up()
    down(n2)
    _serve(n2)
    in_step(n1)
    moved = json.loads(n1.cli("switchover r0 --to n2 --json", 120))
    print(f"switchover: stopped for {moved['stopped_seconds']:.2f} s")
    _tell(moved)
    up(n2)
    down(n1)
    second.check(n2)

    _kill_the_daemon(n2, n1)


@pytest.mark.timeout(300)
def test_a_daemon_that_ends_leaves_the_mount_and_the_next_one_brings_the_address_back(lab: Lab) -> None:
    n1, n2 = make_pair(lab, array=False)
    n1.cli(f"service set r0 --mount {MOUNT} --vip {VIP}")
    n1.cli("promote r0 --without-service")
    n1.guest.run(f"mkfs.ext4 -q {LINK}")
    n1.cli("promote r0")
    up(n1)
    writer = n1.writer("files")
    for signal in ("KILL", "TERM"):
        n1.end(signal)
        _gone(n1)
        n1.guest.run(f"mountpoint -q {MOUNT}")
        n1.start()
        up(n1)
        writer.advance(5)
        steps = [step["name"] for step in n1.report()["service"]["last"]["steps"]]
        assert steps == ["health", "probe", f"vip {VIP}", "announce"]
    assert n1.io_errors() == []
    writer.stop()
    n1.cli("demote r0")
    down(n1)
    n2.cli("promote r0")
    up(n2)
    writer.check(n2)


def _kill_the_daemon(node: Node, other: Node) -> None:
    """No address without it; the mount waits, until it is back or the other node has taken over."""
    third = node.writer("third")
    assert node.end("KILL") == 128 + 9
    _gone(node)
    node.start()
    # Restarted under its lease, or superseded by n1: all of it is on one node.
    eventually(lambda: any(_is_up(one) for one in (node, other)), "the service is up again", 90)
    [where] = [one for one in (node, other) if _is_up(one)]
    print(f"the daemon killed: the service is up on {where.name}")
    third.check(where)
    if where is other:
        # The one that was superseded freed its mount from whoever held it.
        eventually(lambda: node.report()["service"]["state"] == "stopped", "nothing is left there", 60)
        down(node)


def _tell(moved: dict[str, Any]) -> None:
    for step in moved["steps"]:
        print(f"  {step['node']} {step['seconds']:6.3f} s {step['what']}")


def _is_up(node: Node) -> bool:
    found = node.report()["service"]
    return found is not None and found["state"] == "up"


def _gone(node: Node) -> None:
    eventually(
        lambda: ADDRESS not in node.guest.run("ip -o -4 address show dev vec0"), "the address is gone", 15
    )
