"""An array fails under a resource: both legs of a mirror are lost, and the application notices nothing."""

from __future__ import annotations

import json

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import ARRAY, LINK, Node, eventually, make_pair
from tests.metric_rules import alerts, dashboard_queries, names

TOOL = "python -m tests.lab.blocks_tool"
_BLOCKS = 400
_METRICS = 9101


@pytest.mark.long
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


def test_the_metrics_tell_of_the_array_under_the_replica(lab: Lab) -> None:
    n1, _ = make_pair(lab, disk_mib=48)
    n1.end("TERM")
    n1.guest.run(f"printf '[metrics]\\nlisten = \"127.0.0.1:{_METRICS}\"\\n' >>/etc/blockpair/blockpair.toml")
    n1.start()

    def found() -> dict[str, float]:
        """The samples, by what precedes the value."""
        url = f"http://127.0.0.1:{_METRICS}/metrics"
        text = n1.guest.run(
            f"python -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read().decode())'"
        )
        lines = [line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    name = ARRAY.rpartition("/")[2]
    before = found()
    asked = names([*alerts().values(), *dashboard_queries()])
    known = {sample.partition("{")[0] for sample in before}
    assert not {metric for metric in asked if metric.startswith("blockpair_array_")} - known
    assert before[f'blockpair_array_missing_members{{array="{name}"}}'] == 0
    first = n1.guest.disks[0]
    n1.guest.run(f"mdadm {ARRAY} --fail {first}")
    after = found()
    assert after[f'blockpair_array_missing_members{{array="{name}"}}'] == 1
    device = first.rpartition("/")[2]
    assert after[f'blockpair_array_member{{array="{name}",device="{device}",part="faulty"}}'] == 1


_SECTOR = 512
# Of the tool's blocks, those of which a test makes copies wrong: chunks of 512 KiB, eight blocks, alternate
# between the mirror of the first two members and that of the others.
_LEFT, _RIGHT, _OTHER_MIRROR, _BOTH, _UNREAD = 1, 2, 9, 3, 4
_VERSION_1 = " ".join(map(str, range(64)))


class Copies:
    """The members of a node's array, each on its own."""

    def __init__(self, node: Node) -> None:
        self.node, self.run = node, node.guest.run
        first = ["/dev/mapper/dust0", "/dev/mapper/dust1"] if node.dusty else node.guest.disks[:2]
        self.members = [*first, *node.guest.disks[2:4]]
        md = self.run(f"readlink -f {ARRAY}").strip().removeprefix("/dev/")
        self.begin = int(self.run(f"cat /sys/block/{md}/md/dev-*/offset | sort -u")) * _SECTOR

    def at(self, block: int) -> int:
        """Where the members of its mirror have the tool's block, in bytes; one of the first two chunks."""
        return self.begin + block % 8 * (64 << 10)

    def corrupt(self, member: int, block: int) -> None:
        """Have 4 KiB of it decay, and nobody told."""
        where = f"of={self.members[member]} bs=4096 seek={self.at(block) // 4096}"
        self.run(f"dd if=/dev/urandom {where} count=1 oflag=direct conv=notrunc status=none")

    def content(self, member: int, block: int) -> str:
        """The checksum of what one member has of the tool's block."""
        where = f"if={self.members[member]} bs=4096 skip={self.at(block) // 4096} count=16"
        return self.run(f"dd {where} iflag=direct status=none | sha256sum").split()[0]

    def make_bad(self, member: int, block: int) -> None:
        """Have a sector of it be one that cannot be read, until it is written."""
        self.run(f"dmsetup message dust{member} 0 addbadblock {self.at(block) // _SECTOR + 3}")
        self.run(f"dmsetup message dust{member} 0 enable")

    def bad(self) -> list[int]:
        """How many bad sectors each of the two has."""
        count = "dmsetup message dust{} 0 countbadblocks | grep -o '[0-9]*'"
        return [int(self.run(count.format(number))) for number in (0, 1)]

    def scrub(self) -> int:
        """All copies are read and compared; the exit code."""
        return self.node.guest.execute("blockpair raid scrub start r0 --wait", 240, check=False).returncode

    def await_told(self, what: str, times: int = 1) -> str:
        """Wait until the daemon has logged that, so many times; the line."""

        def told() -> list[str]:
            return [line for line in self.node.daemon.stderr.splitlines() if what in line]

        eventually(lambda: len(told()) >= times, f"{what}: {self.node.daemon.stderr[-3000:]}", 240)
        return told()[-1]


def test_the_peer_decides_what_the_copies_of_an_array_cannot(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=24, dusty=True)
    n1.cli("promote r0", 240)
    n1.guest.run(f"{TOOL} write {LINK} 1 0 64 1", 240)
    here, there = Copies(n1), Copies(n2)

    # A bad sector is mended from its partner, below the resource; both bad: from the peer.
    here.make_bad(0, _LEFT)
    here.make_bad(0, _BOTH)
    here.make_bad(1, _BOTH)
    n1.guest.run(f"{TOOL} check {LINK} 1 {_VERSION_1}", 240)
    n1.guest.run(f"{TOOL} check {LINK} 1 {_VERSION_1}", 240)
    assert n1.io_errors() == []
    engine = n1.report()["engine"]
    assert engine["disk"] == "UpToDate" and engine["io"]["healed_reads"] >= 1
    # Nobody has read it: the scrub could not, and so it is looked at.
    here.make_bad(0, _UNREAD)
    here.make_bad(1, _UNREAD)
    assert here.scrub() == 0
    here.await_told("raid.copies-healed")
    assert here.bad() == [0, 0]

    # Either copy may be the wrong one, on the Primary and on the Secondary, under a writer.
    writer = n1.guest.start(f"exec {TOOL} write {LINK} 2 64 300 1")
    writer.wait_output("ok 70\n")
    here.corrupt(0, _LEFT)
    here.corrupt(1, _RIGHT)
    here.corrupt(2, _OTHER_MIRROR)
    there.corrupt(1, _RIGHT)
    assert (here.scrub(), there.scrub()) == (4, 4)
    healed = here.await_told("raid.copies-healed", 2)
    assert "4 KiB of dm-0, 4 KiB of dm-1, 4 KiB of ubdc" in healed, healed
    assert "4 KiB of ubdb" in there.await_told("raid.copies-healed")
    writer.wait(240)
    assert writer.stdout.splitlines() == [f"ok {block}" for block in range(64, 300)]
    for block, (left, right) in ((_LEFT, (0, 1)), (_RIGHT, (0, 1)), (_OTHER_MIRROR, (2, 3))):
        contents = {copies.content(leg, block) for copies in (here, there) for leg in (left, right)}
        assert len(contents) == 1, block
    n1.guest.run(f"{TOOL} check {LINK} 1 {_VERSION_1}", 240)
    assert "12 KiB healed by the peer's copy" in n1.cli("raid scrub status r0")
    assert not [entry for entry in n1.report()["advice"] if entry["code"] == "array-copies-differ"]
    assert (here.scrub(), there.scrub()) == (0, 0)

    # Three copies, three contents: nothing is changed, and somebody is told.
    here.corrupt(0, _BOTH)
    here.corrupt(1, _BOTH)
    before = [here.content(leg, _BOTH) for leg in (0, 1)]
    assert here.scrub() == 4
    assert "no two copies agree" in here.await_told("raid.copies-undecided")
    assert [here.content(leg, _BOTH) for leg in (0, 1)] == before
    (advice,) = [entry for entry in n1.report()["advice"] if entry["code"] == "array-copies-differ"]
    assert "blockpair verify" in advice["remedy"]
