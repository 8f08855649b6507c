"""One of two cables between the nodes is pulled under a writer that syncs every file."""

from __future__ import annotations

import time

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, Node, Writer, assert_same_content, eventually, make_pair


def _states(node: Node) -> list[str]:
    return [path["state"] for path in node.peer()["paths"]]


def _losses(*nodes: Node) -> int:
    """How often the daemons told of a lost connection: the choice of the first source ends one."""
    return sum(node.daemon.stderr.count("peer.lost") for node in nodes)


def _stall(writer: Writer, files: int) -> float:
    """The longest time, in seconds, until one more file was durable, while ``files`` more become so."""
    longest, last, seen = 0.0, time.monotonic(), writer.count
    end = seen + files
    while seen < end:
        writer.advance(1)
        now = time.monotonic()
        longest, last, seen = max(longest, now - last), now, writer.count
    return longest


@pytest.mark.long
def test_one_of_two_links_is_cut_under_a_writer(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=96, array=False, links=2)
    n1.cli("promote r0")
    n1.make_file_system()
    n1.wait("primary,synced,healthy")
    writer = n1.writer("files")
    usual = _stall(writer, 20)
    resync, lost = n1.peer()["last_resync"], _losses(n1, n2)

    n2.guest.unplug(0)
    stall = _stall(writer, 60)
    print(f"the longest wait for a file: {usual:.2f} s before, {stall:.2f} s with a link cut")
    # The writer would have waited for the peer timeout, 3 s, and for the resync after it.
    assert stall < 3
    for node in (n1, n2):
        eventually(lambda: _states(node) == ["down", "active"], f"{node.name} is on its second path")  # noqa: B023
    assert n1.peer()["connection"] == "Connected"
    (advice,) = [entry for entry in n1.report()["advice"] if entry["code"] == "path-down"]
    assert advice["severity"] == "warning" and f"{n2.guest.address}:" in advice["text"]

    n2.guest.plug(0)
    eventually(lambda: _states(n1) == ["active", "standby"], "the first path is used again")
    n2.guest.unplug(1)
    writer.advance(20)
    n2.guest.plug(1)
    n1.wait("primary,synced,healthy")
    writer.stop()

    assert n1.peer()["last_resync"] == resync
    assert _losses(n1, n2) == lost
    assert n1.io_errors() == []
    n1.guest.run(f"umount {MOUNT} && e2fsck -fn {LINK}")
    n1.cli("demote r0")
    n2.cli("promote r0")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    writer.check(n2)
    n2.guest.run(f"umount {MOUNT}")
    n2.cli("demote r0")
    assert_same_content(n1, n2)
