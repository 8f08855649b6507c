"""The cable between the nodes is pulled, or the peer freezes, under a writer."""

from __future__ import annotations

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, Node, Writer, assert_same_content, make_pair

# What a resync may take on beside the files that changed: the intent extents (see docs/concepts.md) of a cut-off
# connection are not suspect, so only the file system's journal and its tables, which are written again and again.
_SLACK = 8 << 20


def _written(node: Node) -> int:
    return int(node.report()["engine"]["io"]["written_bytes"])


def _lose_peer(n1: Node, writer: Writer) -> int:
    """The surviving Primary goes on; the bytes it has written by the time the peer was given up."""
    n1.wait("disconnected,primary,uptodate")
    writer.advance(30)
    return _written(n1)


def test_link_pull_and_frozen_secondary(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=96, array=False)
    n1.cli("promote r0")
    n1.make_file_system()
    writer = n1.writer("files")

    for cut, mend in ((n2.guest.unplug, n2.guest.plug), (n2.guest.freeze, n2.guest.thaw)):
        n1.wait("primary,synced")
        before = _written(n1)
        cut()
        _lose_peer(n1, writer)
        behind = n1.peer()["out_of_sync_bytes"]
        assert behind > 0
        mend()
        n1.wait("primary,synced")
        written = _written(n1) - before
        resync = n1.peer()["last_resync"]
        assert resync["finished"]
        assert resync["direction"] == "to_peer"
        assert behind <= resync["total_bytes"] <= written + _SLACK
        writer.advance(5)

    writer.stop()
    writer.check(n1)
    assert n1.io_errors() == []
    n1.guest.run(f"umount {MOUNT} && e2fsck -fn {LINK}")
    n1.cli("demote r0")
    n2.cli("promote r0")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    writer.check(n2)
    n2.guest.run(f"umount {MOUNT}")
    n2.cli("demote r0")
    assert_same_content(n1, n2)
