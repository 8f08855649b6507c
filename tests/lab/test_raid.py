"""Arrays of a real md: members fail under a writer, come back, are replaced; spares take over, are shared."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from tests.lab.harness import Command, Guest, GuestSpec, Lab, Result
from tests.lab.nodes import eventually

TOOL = "python -m tests.lab.blocks_tool"
_DISK_MIB = 48
_BLOCK = 64 << 10  # of the tool
_SECTOR = 512


@dataclass
class Watching:
    """A `raid watch` that runs in a guest, and what it has told."""

    command: Command

    @property
    def events(self) -> list[dict[str, Any]]:
        complete = self.command.stdout.rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines()]

    def wait(
        self, code: str, device: str | None = None, times: int = 1, timeout: float = 60
    ) -> dict[str, Any]:
        """Wait until it has told an event of that code, of that device, so many times; the last of them."""

        def told() -> list[dict[str, Any]]:
            assert self.command.running, self.command.stderr
            return [e for e in self.events if e["code"] == code and device in (None, e["device"])]

        eventually(lambda: len(told()) >= times, f"{code} of {device}: {self.command.stdout}", timeout)
        return told()[-1]


class Machine:
    """A guest with arrays."""

    def __init__(self, lab: Lab, disks: int, memory_mib: int = 256) -> None:
        self.guest: Guest
        (self.guest,) = lab.boot(GuestSpec("m", disks_mib=[_DISK_MIB] * disks, memory_mib=memory_mib))
        self.disks = self.guest.disks

    def raid(self, words: str, timeout: float = 120) -> str:
        return self.guest.run(f"blockpair raid {words}", timeout)

    def refused(self, words: str) -> str:
        """A command that must be refused as unsafe, with exit code 3; its message."""
        result: Result = self.guest.execute(f"blockpair raid {words}", check=False)
        assert result.returncode == 3, result
        return result.stderr

    def status(self, name: str) -> dict[str, Any]:
        result = self.guest.execute(f"blockpair raid status {name} --json", check=False)
        assert result.returncode in (0, 4), result
        (array,) = json.loads(result.stdout)["arrays"]
        assert isinstance(array, dict)
        assert result.returncode == (0 if array["healthy"] else 4)
        return array

    def watch(self, words: str = "") -> Watching:
        watching = Watching(self.guest.start(f"exec blockpair raid watch --json {words}"))
        watching.wait("array.found")
        return watching

    def write(self, array: str, version: int, first: int, end: int) -> Command:
        return self.guest.start(f"exec {TOOL} write /dev/md/{array} {version} {first} {end} 1")

    def check(self, array: str, version: int, first: int, end: int) -> None:
        blocks = " ".join(map(str, range(first, end)))
        self.guest.run(f"{TOOL} check /dev/md/{array} {version} {blocks}")

    def fail(self, array: str, device: str) -> None:
        self.guest.run(f"mdadm /dev/md/{array} --fail {device}")

    def written(self, device: str) -> int:
        """Bytes ever written to a disk."""
        return int(self.guest.run(f"cat /sys/block/{device}/stat").split()[6]) * _SECTOR

    def io_errors(self) -> list[str]:
        return [line for line in self.guest.run("dmesg").splitlines() if "I/O error" in line]


def _all_acknowledged(writer: Command, first: int, end: int) -> None:
    lines = writer.wait(120).stdout.splitlines()
    assert lines == [f"ok {block}" for block in range(first, end)]


def test_members_fail_under_a_writer_and_a_spare_takes_over(lab: Lab) -> None:
    machine = Machine(lab, 5)
    a, b, c, d, e = machine.disks
    plan = machine.raid(f"create data --devices {a},{b},{c},{d} --spares {e} --plan")
    assert "mdadm --create /dev/md/data" in plan and "Nothing was done" in plan
    machine.raid(f"create data --devices {a},{b},{c},{d} --spares {e} --yes --wait")
    assert "ARRAY /dev/md/data" in machine.guest.run("cat /etc/mdadm/mdadm.conf")
    watching = machine.watch()

    # As slow as a large disk is: the writer writes on while it is filled.
    machine.guest.run("echo 8000 > /sys/block/md127/md/sync_speed_max")
    blocks = 600
    writer = machine.write("data", 1, 0, blocks)
    writer.wait_output("ok 40\n")
    machine.fail("data", b)
    failed = watching.wait("member.failed", "ubdb")
    assert failed["cause"] == "ubdb failed in data"
    filled = watching.wait("member.filled", "ubde")
    assert filled["consequence"] == "survives any one failure"
    told = " ".join(e["consequence"] + e["cause"] for e in watching.events)
    assert "spare ubde took over" in told and "survives any one more failure except ubda" in told
    _all_acknowledged(writer, 0, blocks)
    assert machine.status("data")["survival"] == "survives any one failure"

    # One leg of each mirror: nothing is lost, and everybody knows how close it is.
    writer = machine.write("data", 2, 0, 100)
    writer.wait_output("ok 10\n")
    machine.fail("data", c)
    assert (
        "survives any one more failure except ubdd" in watching.wait("member.failed", "ubdc")["consequence"]
    )
    machine.fail("data", a)
    assert "the next failure loses data" in watching.wait("member.failed", "ubda")["consequence"]
    _all_acknowledged(writer, 0, 100)
    machine.check("data", 2, 0, 100)
    machine.check("data", 1, 100, blocks)
    assert machine.io_errors() == []
    assert not any(event["code"] == "array.failed" for event in watching.events)


def test_a_member_that_comes_back_gets_only_what_it_missed(lab: Lab) -> None:
    machine = Machine(lab, 4)
    a, b, c, d = machine.disks
    machine.raid(f"create data --devices {a},{b},{c},{d} --bitmap-chunk 1M --yes --wait")
    watching = machine.watch("--heal")

    def pull_and_plug(number: int) -> float:
        """What a cable that is pulled and put in again does: UML's disks have none. When it was put in."""
        machine.guest.run(f"mdadm /dev/md/data --fail {b} --remove {b}")
        # Seen with one look, or with two.
        left = ("member.gone", "member.removed")
        eventually(
            lambda: sum(event["code"] in left for event in watching.events) >= number,
            f"pulled {number} times: {watching.command.stdout}",
            60,
        )
        _all_acknowledged(machine.write("data", number, 0, 8), 0, 8)
        plugged = time.monotonic()
        machine.guest.run("echo add > /sys/block/ubdb/uevent")
        return plugged

    for number in (1, 2, 3):
        before = machine.written("ubdb")
        plugged = pull_and_plug(number)
        watching.wait("member.returns", "ubdb", number)
        eventually(
            lambda: machine.status("data")["healthy"] is True,
            f"ubdb serves again: {watching.command.stdout}",
        )
        took, copied = time.monotonic() - plugged, machine.written("ubdb") - before
        print(f"plugged in, and whole again after {took:.1f} s; {copied >> 10} KiB copied")
        # Of some 47 MiB, were it filled from the start.
        assert 8 * _BLOCK // 2 <= copied < 8 << 20
    pull_and_plug(4)
    assert "readd data ubdb" in watching.wait("member.flaps", "ubdb")["consequence"]
    assert machine.status("data")["degraded"] is True
    machine.raid("readd data ubdb --wait")
    machine.check("data", 4, 0, 8)
    # Every block from the member that was away.
    machine.guest.run(f"mdadm /dev/md/data --fail {a}")
    machine.check("data", 4, 0, 8)


def test_a_spare_is_shared_and_a_member_replaced(lab: Lab) -> None:
    machine = Machine(lab, 7)
    a, b, c, d, e, f, g = machine.disks
    machine.raid(f"create one --level 1 --devices {a},{b} --spare-group pool --yes --wait")
    machine.raid(f"create two --level 1 --devices {c},{d} --spares {e} --spare-group pool --yes --wait")
    assert "ubda is refused" not in machine.refused(f"create three --level 1 --devices {f},{e} --yes")
    _all_acknowledged(machine.write("one", 1, 0, 16), 0, 16)
    watching = machine.watch("--heal")
    machine.fail("one", a)
    moved = watching.wait("spare.moved", "ubde")
    assert moved["array"] == "one" and "spare group pool" in moved["cause"]
    watching.wait("member.filled", "ubde")

    # Another disk than the one that is ill serves in the end; redundancy is never less.
    _all_acknowledged(machine.write("two", 1, 0, 16), 0, 16)
    # Slow enough to be seen: one that is over between two looks is told from no failure with a spare.
    machine.guest.run('for md in /sys/block/md*/md; do echo 16000 > "$md/sync_speed_max"; done')
    machine.raid(f"replace two ubdc --with {f} --yes --wait")
    watching.wait("member.replaced", "ubdc")
    assert not any(event["array"] == "two" and event["severity"] != "info" for event in watching.events)
    two = machine.status("two")
    assert {m["device"]: m["part"] for m in two["members"]} == {"ubdd": "active", "ubdf": "active"}
    machine.fail("two", d)
    machine.check("two", 1, 0, 16)

    # In use, it is neither stopped nor deleted.
    machine.guest.run("mkfs.ext4 -q /dev/md/one && mkdir -p /mnt/one && mount /dev/md/one /mnt/one")
    assert "mounted on /mnt/one" in machine.refused("delete one --yes")
    assert "in use" in machine.refused("stop one")
    machine.guest.run("umount /mnt/one")
    machine.raid("delete one --yes")
    assert "/dev/md/one" not in machine.guest.run("cat /etc/mdadm/mdadm.conf; ls /dev/md")
    # What it left behind is free again, and a signature is found.
    machine.guest.run(f"mkfs.ext4 -q {g}")
    assert "ext4" in machine.refused(f"spare add two {g} --yes")


def test_bad_sectors_are_mended_corruption_is_told_and_a_lost_mirror_too(lab: Lab) -> None:
    machine = Machine(lab, 4)
    a, b, c, d = machine.disks
    run = machine.guest.run
    # A disk that remembers which of its sectors cannot be read, until they are written.
    table = f"0 $(blockdev --getsz {a}) dust {a} 0 512"
    run(f'modprobe dm-dust && DM_DISABLE_UDEV=1 dmsetup create dust --table "{table}"')
    machine.raid(f"create data --devices /dev/mapper/dust,{b},{c},{d} --yes --wait")
    watching = machine.watch()
    _all_acknowledged(machine.write("data", 1, 0, 64), 0, 64)
    start = int(run("cat /sys/block/md127/md/dev-dm-0/offset"))
    bad = " ".join(f"dmsetup message dust 0 addbadblock {start + sector};" for sector in (0, 1, 100))
    run(f"{bad} dmsetup message dust 0 enable")
    machine.check("data", 1, 0, 64)
    mended = watching.wait("member.read-errors", "dm-0")
    assert "written anew from another copy" in mended["consequence"]
    assert "found" in run("dmsetup message dust 0 countbadblocks")
    assert int(run("dmsetup message dust 0 countbadblocks | grep -o '[0-9]*'")) == 0

    machine.raid("scrub start data --wait")  # exit code 0: no difference
    run(f"dd if=/dev/urandom of={b} bs=4096 seek={start // 8 + 40} count=1 oflag=direct conv=notrunc")
    scrubbed = machine.guest.execute("blockpair raid scrub start data --wait", check=False)
    assert scrubbed.returncode == 4 and "may differ" in scrubbed.stdout
    eventually(lambda: watching.wait("scrub.ended")["severity"] == "warning", "the scrub is told of")

    machine.fail("data", b)
    watching.wait("member.failed", "ubdb")
    # md says no, for it keeps the last copy as a member; but it has given the array up.
    machine.guest.execute("mdadm /dev/md/data --fail dm-0", check=False)
    failed = watching.wait("array.failed")
    assert failed["severity"] == "critical" and failed["cause"].endswith("the last copy failed, on dm-0")
    assert machine.status("data")["failed"] is True
    assert "failed 0 EIO" in machine.write("data", 2, 0, 1).wait().stdout


def test_an_array_that_waits_for_its_first_write_is_healed_and_grows(lab: Lab) -> None:
    machine = Machine(lab, 6)
    a, b, c, d, e, f = machine.disks
    machine.raid(f"create data --devices {a},{b},{c},{d} --spares {e} --yes --wait")
    _all_acknowledged(machine.write("data", 1, 0, 64), 0, 64)
    # As after a boot in which a disk did not come: Debian assembles arrays so that nothing writes to them.
    machine.guest.run(f"mdadm --stop /dev/md/data && mdadm --assemble --run /dev/md/data {a} {c} {d} {e}")
    waits = machine.status("data")
    assert (waits["state"], waits["sync"], waits["degraded"]) == ("read-auto", None, True)
    assert waits["until_whole"] == "it waits for its first write before it rebuilds"
    watching = machine.watch("--heal")
    watching.wait("array.writable")
    watching.wait("member.filled", "ubde")

    # The disk that did not come still says that it is a member: it is not taken without --force.
    assert "linux_raid_member" in machine.refused(f"grow data --devices {f},{b} --yes")
    # Nor does it grow away from under the metadata of a resource.
    file = "/etc/blockpair/resources/r0.toml"
    lines = """'device = "/dev/md/data"' 'metadata = "internal"'"""
    machine.guest.run(f"mkdir -p $(dirname {file}) && printf '%s\\n' {lines} >{file}")
    told = machine.refused(f"grow data --devices {f},{b} --force --yes")
    assert "the metadata of r0 are at the end of data" in told
    machine.guest.run(f"rm {file}")
    machine.raid(f"grow data --devices {f},{b} --force --yes --wait")
    grown = machine.status("data")
    assert (grown["slots"], grown["healthy"]) == (6, True)
    assert grown["size_bytes"] == waits["size_bytes"] // 2 * 3
    machine.check("data", 1, 0, 64)
