"""A disk fails in one zone: a real EIO from a block device, under a resource in use, on either node."""

from __future__ import annotations

import json

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MAPPED, Node, assert_same_content, eventually, make_pair

TOOL = "python -m tests.lab.blocks_tool"
_DISK_MIB = 48
# In blocks of the tool, 64 KiB: the zone that fails, and what is written, which reaches over both its ends.
_ZONE = range(256, 288)
_WRITTEN = (240, 304, 4)
_SECTORS = 128  # of 512 bytes in such a block


def _table(node: Node, *, failing: bool) -> str:
    """A table for the device-mapper: the whole disk, with or without a zone that fails all I/O.

    Target error, not flakey: the latter would fail every flush of the whole device too, and nothing would be
    acknowledged any more.
    """
    (disk, *_), end = node.guest.disks, _DISK_MIB << 11
    if not failing:
        return f"0 {end} linear {disk} 0"
    start, stop = _ZONE.start * _SECTORS, _ZONE.stop * _SECTORS
    return "\n".join(
        (
            f"0 {start} linear {disk} 0",
            f"{start} {stop - start} error",
            f"{stop} {end - stop} linear {disk} {stop}",
        )
    )


def _set_failing(node: Node, failing: bool) -> None:
    """Give the mapped device another table while it is in use."""
    name = MAPPED.rsplit("/", 1)[1]
    table = _table(node, failing=failing)
    node.guest.run(
        f"set -e; export DM_DISABLE_UDEV=1\ndmsetup load {name} <<'END'\n{table}\nEND\ndmsetup resume {name}"
    )


def _write(node: Node, version: int) -> tuple[list[int], dict[int, str]]:
    """The blocks that were acknowledged, and those that failed with the error's name."""
    first, end, step = _WRITTEN
    lines = node.guest.run(f"{TOOL} write {LINK} {version} {first} {end} {step}").splitlines()
    words = [line.split() for line in lines]
    done = [int(block) for result, block, *_ in words if result == "ok"]
    failed = {int(block): error[0] for result, block, *error in words if result == "failed"}
    assert sorted([*done, *failed]) == list(range(first, end, step)), lines
    return done, failed


def _check(node: Node, device: str, version: int, blocks: list[int]) -> None:
    node.guest.run(f"{TOOL} check {device} {version} {' '.join(map(str, blocks))}")


def _assert_status_tells(node: Node) -> None:
    """``status``, as text and as JSON, shows the disk error and what to do, and ends with 4, degraded."""
    text, machine = (
        command.wait(check=False)
        for command in [node.guest.start(f"blockpair status r0 {option}") for option in ("", "--json")]
    )
    assert (text.returncode, machine.returncode) == (4, 4)
    (report,) = json.loads(machine.stdout)["resources"]
    assert report["engine"]["disk_error"]
    (advice,) = [entry for entry in report["advice"] if entry["code"] in ("disk-error", "diskless")]
    assert advice["remedy"]
    assert advice["text"] in text.stdout
    assert advice["remedy"] in text.stdout


@pytest.mark.long
def test_a_disk_fails_under_the_primary_and_then_under_the_secondary(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=_DISK_MIB, array=False, mapped=True)
    n1.cli("promote r0")
    everything, failed = _write(n1, 1)
    assert failed == {}
    _check(n2, n2.device, 1, everything)

    _set_failing(n1, True)
    done, failed = _write(n1, 2)  # the application goes on through the peer, and notices nothing
    assert (done, failed) == (everything, {})
    _check(n1, LINK, 2, everything)
    _check(n2, n2.device, 2, everything)
    engine = n1.report()["engine"]
    assert (engine["disk"], engine["served_by"]) == ("Diskless", "n2")
    _assert_status_tells(n1)
    assert n1.io_errors() == []

    # Mended, it would be believed only after a start; its peer takes over first, with no force.
    n1.cli("demote r0")
    n2.cli("promote r0")
    _check(n2, LINK, 2, everything)
    _set_failing(n1, False)
    _attach_again(n1, n2)

    _set_failing(n1, True)
    again, failed = _write(n2, 3)  # the Secondary's disk costs the application nothing either
    assert (again, failed) == (everything, {})
    eventually(lambda: n1.report()["engine"]["disk"] == "Diskless", "n1 has given its disk up")
    _assert_status_tells(n1)
    assert "on n1: mend" in n2.guest.execute("blockpair status r0", check=False).stdout

    _set_failing(n1, False)
    _attach_again(n1, n2)
    _check(n1, n1.device, 3, everything)
    _check(n2, LINK, 3, everything)
    n1.cli("status r0")  # healthy again: exit code 0
    assert n2.io_errors() == []
    n2.cli("demote r0")
    assert_same_content(n1, n2)


def _attach_again(node: Node, primary: Node) -> None:
    """Down and up there is all that it takes: the Primary asks by itself."""
    node.guest.run("blockpair down r0 && blockpair up r0")
    primary.wait("primary,synced")
    node.wait("uptodate,secondary,synced")
