"""The cable between the nodes is pulled, or the peer freezes, under a writer."""

from __future__ import annotations

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, Node, assert_same_content, make_pair

# What was on its way when the peer was lost may be resynced although it was written before.
_ON_ITS_WAY = 8 << 20


def _written(node: Node) -> int:
    return int(node.report()["engine"]["io"]["written_bytes"])


@pytest.mark.long
def test_link_pull_and_frozen_secondary(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=96, array=False)
    n1.cli("promote r0")
    n1.make_file_system()
    writer = n1.writer("files")

    for cut, mend in ((n2.guest.unplug, n2.guest.plug), (n2.guest.freeze, n2.guest.thaw)):
        n1.wait("primary,synced")
        before = _written(n1)
        cut()
        n1.wait("disconnected,primary,uptodate")
        writer.advance(30)
        behind = n1.peer()["out_of_sync_bytes"]
        assert behind > 0
        mend()
        n1.wait("primary,synced")
        written = _written(n1) - before
        resync = n1.peer()["last_resync"]
        assert resync["finished"]
        assert resync["direction"] == "to_peer"
        assert behind <= resync["total_bytes"] <= written + _ON_ITS_WAY
        writer.advance(5)

    writer.stop()
    assert n1.io_errors() == []
    n1.guest.run(f"umount {MOUNT} && e2fsck -fn {LINK}")
    n1.cli("demote r0")
    n2.cli("promote r0")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    writer.check(n2)
    n2.guest.run(f"umount {MOUNT}")
    n2.cli("demote r0")
    assert_same_content(n1, n2)
