"""A pulled cable and a forced promotion: both nodes go on under a file system each, and meet again."""

from __future__ import annotations

import json

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, Node, assert_same_content, eventually, make_pair

IMAGE = "/tmp/as-it-was.img"


def splits(node: Node) -> None:
    """Wait until a node reports the split brain, in its status and in its history."""

    def found() -> bool:
        peer = node.peer()
        return bool(peer["split_brain"]) and peer["connection"] == "StandAlone"

    eventually(found, f"{node.name} reports the split brain")
    report = node.report()
    assert not report["healthy"] and report["advice"][0]["code"] == "split-brain"
    assert "split_brain.found" in node.cli("history r0")


@pytest.mark.long
def test_both_report_it_and_the_bundle_has_the_victim_s_files(lab: Lab) -> None:
    n1, n2 = make_pair(lab, array=False)
    n1.cli("promote r0")
    n1.make_file_system()
    common = n1.writer("common", pause_s=0)
    common.stop()

    n2.guest.unplug()
    for node in (n1, n2):
        node.wait("disconnected")
    n2.cli("promote r0 --force --yes")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    kept, lost = n1.writer("kept"), n2.writer("lost")
    for writer in (kept, lost):
        writer.advance(20)
    n2.guest.plug()
    for node in (n1, n2):
        splits(node)
    # Both stay usable, their data untouched.
    for writer, node in ((kept, n1), (lost, n2)):
        writer.advance(5)
        writer.stop()
        writer.check(node)
    assert "demote" in n1.refused("resolve r0 --discard n2 --yes")

    for node in (n1, n2):
        node.guest.run(f"umount {MOUNT}")
    n2.cli("demote r0")
    sides = {side["node"]: side for side in json.loads(n1.cli("resolve r0 --json"))["sides"]}
    for name, folder, writer in (("n1", "kept", kept), ("n2", "lost", lost)):
        paths = set(sides[name]["files"]["paths"])
        assert {f"/{folder}/{number}" for number in range(writer.count)} <= paths, sides[name]
        assert sides[name]["loss"]["changed_bytes"] > 0
        assert sides[name]["diverged_at_s"] is not None
    size = n2.report()["engine"]["size_bytes"]
    read = f"dd if={n2.device} iflag=direct,count_bytes bs=1M count={size} status=none | sha256sum"
    was = n2.guest.run(read).split()[0]

    n1.cli("resolve r0 --discard n2 --yes --wait", 120)
    n2.wait("synced,secondary")
    n2.cli("bundle show r0")
    n2.cli(f"bundle restore r0 --to {IMAGE}")
    assert n2.guest.run(f"sha256sum {IMAGE}").split()[0] == was
    n2.guest.run(f"mount -o loop,ro {IMAGE} {MOUNT}")
    common.check(n2)
    lost.check(n2)
    n2.guest.run(f"umount {MOUNT}")

    n1.guest.run(f"mount {LINK} {MOUNT}")
    common.check(n1)
    kept.check(n1)
    n1.guest.run(f"[ ! -e {lost.folder} ] && umount {MOUNT} && e2fsck -fn {LINK}")
    n1.cli("demote r0")
    assert_same_content(n1, n2)
