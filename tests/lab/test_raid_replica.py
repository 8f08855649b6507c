"""An array fails under a resource: both legs of a mirror are lost, and the application notices nothing."""

from __future__ import annotations

import json

from tests.lab.harness import Lab
from tests.lab.nodes import ARRAY, LINK, eventually, make_pair

TOOL = "python -m tests.lab.blocks_tool"
_BLOCKS = 400


def test_a_mirror_is_lost_under_the_primary_and_the_peer_carries_on(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=48)
    n1.cli("promote r0")
    writer = n1.guest.start(f"exec {TOOL} write {LINK} 1 0 {_BLOCKS} 1")
    writer.wait_output("ok 20\n")
    first, second, *_ = n1.guest.disks
    n1.guest.run(f"mdadm {ARRAY} --fail {first}")
    # One leg: the array copes, the resource does not know.
    acknowledged = writer.stdout.count("ok")
    eventually(lambda: writer.stdout.count("ok") > acknowledged + 5, "the writer goes on")
    assert n1.report()["engine"]["disk"] == "UpToDate"
    # The other: md gives up, and says no to this.
    n1.guest.execute(f"mdadm {ARRAY} --fail {second}", check=False)
    assert writer.wait(120).stdout.splitlines() == [f"ok {block}" for block in range(_BLOCKS)]
    engine = n1.report()["engine"]
    assert (engine["disk"], engine["served_by"]) == ("Diskless", "n2")
    everything = " ".join(map(str, range(_BLOCKS)))
    n1.guest.run(f"{TOOL} check {LINK} 1 {everything}")
    n2.guest.run(f"{TOOL} check {n2.device} 1 {everything}")
    told = n1.guest.execute("blockpair raid status r0 --json", check=False)
    assert told.returncode == 4
    (array,) = json.loads(told.stdout)["arrays"]
    assert array["failed"] and not array["advice"]
