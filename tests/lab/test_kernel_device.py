"""The kernel's nbd device on a real kernel: attached, its server killed, re-attached, held, detached."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.lab.harness import Command, Guest, GuestSpec, Lab

TOOL = "python -m tests.lab.kernel_device_tool"
LINK = "/dev/blockpair/r0"


@pytest.fixture
def guest(lab: Lab) -> Guest:
    return lab.boot(GuestSpec("a", disks_mib=[64]))[0]


def _serve(guest: Guest, options: str = "") -> Command:
    server = guest.start(f"exec {TOOL} serve a/r0 /dev/ubda {options}")
    server.wait_output("serving")
    return server


def _records(writer: Command) -> int:
    return writer.stdout.count("\n")


def _wait_records(writer: Command, count: int, timeout: float = 60) -> None:
    writer.wait_output(f"\n{count}\n", timeout)


def _holders(guest: Guest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(guest.run(f"{TOOL} holders {LINK}"))
    return found


def _mounted_writer(guest: Guest) -> Command:
    guest.run(f"mkfs.ext4 -q {LINK} && mkdir -p /srv/fs && mount {LINK} /srv/fs")
    writer = guest.start(f"exec {TOOL} write /srv/fs/records")
    _wait_records(writer, 10)
    return writer


def _check_records(guest: Guest, writer: Command) -> None:
    """Every record that was counted is on the file system, in order."""
    count = _records(writer)
    guest.run(
        f'python -c \'d = open("/srv/fs/records", "rb").read(); assert len(d) >= {count} * 4096, len(d)\n'
        f'for n in range({count}): assert d[n * 4096 : n * 4096 + 4096] == n.to_bytes(8, "big") * 512, n\''
    )


def test_two_connections_of_a_killed_server_come_back_under_a_mounted_file_system(guest: Guest) -> None:
    server = _serve(guest, "--connections 2 --io-timeout 2")
    writer = _mounted_writer(guest)
    for _ in range(2):
        server.signal("KILL")
        assert server.wait(check=False).returncode == 128 + 9
        standing = _records(writer)
        server = _serve(guest, "--reattach")
        assert server.stdout.endswith("over 2\n")
        _wait_records(writer, standing + 10)
    writer.signal("KILL")
    writer.wait(check=False)
    assert writer.stderr == ""
    _check_records(guest, writer)
    assert guest.run("dmesg | grep -ciE 'i/o error|remount.*read-only' || true").strip() == "0"
    guest.run(f"umount /srv/fs && {TOOL} detach a/r0")
    assert server.wait().stdout.endswith("disconnected\n")
    assert guest.run("cat /sys/block/nbd0/size").strip() == "0"
    guest.run("e2fsck -fn /dev/ubda")


def test_who_holds_the_device(guest: Guest) -> None:
    _serve(guest)
    writer = _mounted_writer(guest)
    reader = guest.start(f"exec sleep 600 < {LINK}")
    guest.wait_for(f"[ /proc/{reader.pid}/fd/0 -ef {LINK} ]")
    found = _holders(guest)
    assert {"use": "mount", "target": "/srv/fs", "pid": None, "command": ""} in found
    writers = [h for h in found if h["pid"] == writer.pid]
    assert [(h["use"], h["target"]) for h in writers] == [("file", "/srv/fs/records")]
    assert "kernel_device_tool write" in writers[0]["command"]
    assert [(h["use"], h["command"]) for h in found if h["pid"] == reader.pid] == [("open", "sleep 600")]

    refused = guest.execute(f"{TOOL} detach a/r0", check=False)
    assert refused.returncode == 3
    assert "mounted on /srv/fs" in refused.stderr
    assert f"(pid {writer.pid})" in refused.stderr
    standing = _records(writer)
    _wait_records(writer, standing + 5)  # refused means untouched

    writer.signal("KILL")
    writer.wait(check=False)
    guest.run("umount /srv/fs")
    assert [h["use"] for h in _holders(guest)] == ["open"]
    assert guest.execute(f"{TOOL} detach a/r0", check=False).returncode == 3
    reader.signal("KILL")
    reader.wait(check=False)
    guest.run(f"{TOOL} detach a/r0")
    assert guest.execute(f"test -L {LINK}", check=False).returncode == 1


def test_a_mount_in_another_namespace_and_a_device_on_top_are_named(guest: Guest) -> None:
    _serve(guest)
    guest.run(f"mkfs.ext4 -q {LINK}")
    other = guest.start(f"exec unshare -m bash -c 'mount {LINK} /mnt && echo up && exec sleep 600'")
    other.wait_output("up")
    (mount,) = [h for h in _holders(guest) if h["use"] == "mount"]
    assert (mount["target"], mount["command"]) == ("/mnt", "sleep 600")
    other.signal("KILL")
    other.wait(check=False)
    guest.wait_for(f"! {TOOL} holders {LINK} | grep -q mount")
    guest.run(f"mdadm --create /dev/md9 --run --force --level=1 --raid-devices=1 --metadata=1.2 {LINK} <<< y")
    assert [(h["use"], h["target"]) for h in _holders(guest)] == [("device", "/dev/md9")]
    refused = guest.execute(f"{TOOL} detach a/r0", check=False)
    assert (refused.returncode, "part of /dev/md9" in refused.stderr) == (3, True)
    guest.run(f"mdadm --stop /dev/md9 && {TOOL} detach a/r0")


def test_an_answer_may_take_longer_than_every_timer(guest: Guest) -> None:
    _serve(guest, "--stall /run/stall")
    guest.wait_for(f"dd if={LINK} of=/dev/null bs=4k count=1 iflag=direct")
    guest.run("touch /run/stall")
    reader = guest.start(f"dd if={LINK} bs=4k count=1 skip=9 iflag=direct | cmp - <(head -c 4096 /dev/zero)")
    guest.wait_for("dmesg | grep -q 'Possible stuck request.*Runtime [3-9] seconds'")
    assert reader.running
    assert json.loads(guest.run(f"{TOOL} status"))["0"] is True
    guest.run("rm /run/stall")
    reader.wait()
    assert guest.run("dmesg | grep -ciE 'i/o error|timed out' || true").strip() == "0"


def test_a_served_device_is_neither_attached_nor_re_attached_again(guest: Guest) -> None:
    _serve(guest)
    twice = guest.execute(f"{TOOL} serve a/r0 /dev/ubda", check=False)
    assert "a/r0 has /dev/nbd0 already" in twice.stderr
    began = time.monotonic()
    again = guest.execute(f"{TOOL} serve a/r0 /dev/ubda --reattach --deadline 1", check=False)
    assert "another process still serves a/r0" in again.stderr
    assert time.monotonic() - began > 1
    guest.run(f"dd if={LINK} of=/dev/null bs=64k count=16 iflag=direct")  # and the server still serves it


def test_a_device_without_a_server_goes_by_force(guest: Guest) -> None:
    server = _serve(guest)
    server.signal("KILL")
    server.wait(check=False)
    guest.run(f"{TOOL} detach a/r0 --force")
    guest.wait_for("! test -e /sys/block/nbd0/backend")
    _serve(guest)


def test_the_protected_process(guest: Guest) -> None:
    seen = json.loads(guest.run(f"{TOOL} protect"))
    assert seen["before"] == [False, 0]
    assert seen["held"][0] is True
    assert seen["held"][1] > 0
    assert (seen["early"], seen["late"]) == (False, True)
    assert seen["released"] == [False, 0]
