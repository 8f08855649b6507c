"""The daemon alone cares for an array below a resource: nobody types a command."""

from __future__ import annotations

import json
from typing import Any

from tests.lab.harness import GuestSpec, Lab
from tests.lab.nodes import ARRAY, Node, eventually

TOOL = "python -m tests.lab.blocks_tool"
# As many as fit, or it would end before it has to be given way to.
_BLOCKS = 1400
_CONFIGURATION = """
[raid]
scrub_days = 1
rebuild_latency = "1ms"
adopt.r0 = ["bay-5"]
"""


class Cared:
    """A node with r0 on an array of four disks and a spare; a sixth disk is not plugged in yet."""

    def __init__(self, lab: Lab) -> None:
        (guest,) = lab.boot(GuestSpec("n1", disks_mib=[48] * 6, memory_mib=256))
        self.node = Node(guest, ARRAY)
        self.run = guest.run
        self.disks = [disk.rpartition("/")[2] for disk in guest.disks]
        a, b, c, d, e, _ = guest.disks
        devices = f"--devices {a},{b},{c},{d} --spares {e} --bitmap-chunk 1M"
        made = json.loads(self.run(f"blockpair raid create r0 {devices} --yes --wait --json", 120))
        scrubbed = json.dumps({made["array"]["uuid"]: "0"})
        self.run(f"mkdir -p /var/lib/blockpair; echo '{scrubbed}' > /var/lib/blockpair/array-scrubs.json")
        self.run(f"cat >> /etc/blockpair/blockpair.toml <<'END'{_CONFIGURATION}END")
        self.node.start()
        # That it is on the array is all that matters here; what it does there, test_raid_replica has.
        self.node.cli(f"create r0 --device {ARRAY} --metadata internal --peer n2=127.0.0.1:9")

    def await_told(self, *words: str) -> None:
        """Wait until the daemon has logged an event with these words."""

        def told() -> bool:
            lines = self.node.daemon.stderr.splitlines()
            return any(all(word in line for word in words) for line in lines)

        eventually(told, f"{words}: {self.node.daemon.stderr[-4000:]}", 60)

    def events(self) -> list[dict[str, Any]]:
        """Those about r0's array, as a person sees them."""
        text = self.node.cli("events r0 --kind 'raid.*' --limit 1000 --json")
        return [json.loads(line) for line in text.splitlines()]

    def advice(self) -> dict[str, str]:
        """What `status` says of the array, by code."""
        told = {entry["code"]: entry["text"] for entry in self.node.report()["advice"]}
        return {code: text for code, text in told.items() if code.startswith("array-")}

    def limit(self) -> str:
        return self.run("cat /sys/block/md127/md/sync_speed_max").strip()

    def plug_in(self, disk: str) -> None:
        """What the kernel tells of a disk that is plugged in: UML's disks have no cable."""
        self.run(f"echo add > /sys/block/{disk}/uevent")


def test_the_daemon_heals_an_array_and_tells_of_it(lab: Lab) -> None:
    cared = Cared(lab)
    a, b, c, _, e, f = cared.disks
    cared.await_told("raid.scrub-ended", "no difference was found")
    assert cared.advice() == {}

    # A member fails while an application writes: the spare is in, slowly enough for it.
    cared.run("echo 2000 > /sys/block/md127/md/sync_speed_max")
    writer = cared.node.guest.start(f"exec {TOOL} write {ARRAY} 1 0 {_BLOCKS} 1")
    writer.wait_output("ok 10\n")
    cared.run(f"mdadm {ARRAY} --fail /dev/{b}")
    cared.await_told("raid.member-failed")
    degraded = cared.advice()["array-degraded"]
    assert "to full redundancy" in degraded and f"survives any one more failure except {a}" in degraded
    writer.signal("KILL")
    acknowledged = writer.wait(check=False).stdout.splitlines()
    assert acknowledged == [f"ok {block}" for block in range(len(acknowledged))]
    eventually(lambda: cared.limit() == "2000 (local)", "the speed is given back, for nobody waits")
    cared.run("echo system > /sys/block/md127/md/sync_speed_max")
    cared.await_told("raid.member-filled", e)
    assert cared.advice().keys() == {"array-member-failed"}
    (failed,) = [event for event in cared.events() if event["what"] == "raid.member-failed"]
    assert failed["text"].startswith(f"{b} failed in r0; spare {e} took over; "), failed
    assert "to full redundancy; survives any one more failure except ubda" in failed["text"]
    assert (failed["severity"], failed["next"]) == ("warning", "blockpair raid status r0")

    # One is pulled and plugged in again: it gets what it missed.
    cared.run(f"mdadm {ARRAY} --remove /dev/{b}")
    cared.run(f"mdadm {ARRAY} --fail /dev/{c} --remove /dev/{c}")
    # Seen with one look, or with two.
    cared.await_told("raid.member-", f"device={c}", "no spare is there: add one")
    assert "no spare is there" in cared.advice()["array-degraded"]
    cared.plug_in(c)
    cared.await_told("raid.member-returns", "done")
    cared.await_told("raid.member-filled", c)
    assert cared.advice() == {}

    # A new disk where a rule wants spares is one; a former member elsewhere is left alone.
    cared.run(f"mkdir -p /dev/disk/by-path && ln -s ../../{f} /dev/disk/by-path/bay-5")
    cared.plug_in(b)
    cared.plug_in(f)
    cared.await_told("raid.spare-added", f)
    assert f"{f}, plugged in at bay-5, becomes a spare of r0 by rule; done" in cared.node.daemon.stderr
    members = json.loads(cared.run("blockpair raid status r0 --json"))["arrays"][0]["members"]
    assert {entry["device"] for entry in members} == {a, c, cared.disks[3], e, f}
    busy = cared.node.guest.execute("blockpair raid watch --heal", check=False)
    assert busy.returncode != 0 and "another program heals" in busy.stderr
    assert cared.node.end("TERM") == 0
