"""The lab itself: what the other tests rely on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import unpacked
from tests.lab import kernel
from tests.lab.harness import (
    SOURCE,
    CommandFailed,
    CommandTimeout,
    Guest,
    GuestDied,
    GuestSpec,
    Lab,
    LabUnavailable,
)
from tests.lab.journal import TERMINAL
from tests.lab.nodes import eventually


def test_two_kernels_and_a_cable(lab: Lab) -> None:
    a, b = lab.boot(GuestSpec("a"), GuestSpec("b"))
    assert a.run("hostname").strip() == "a"
    assert a.release == b.release == a.run("uname -r").strip()
    ping = f"ping -c 1 -W 1 {b.address}"
    a.run(ping)
    b.unplug()
    assert a.execute(ping, check=False).returncode == 1
    b.plug()
    a.wait_for(ping)


def test_a_cable_is_cut_in_one_direction(lab: Lab) -> None:
    a, b, c = lab.boot(GuestSpec("a"), GuestSpec("b"), GuestSpec("c"))
    ping = "ping -c 1 -W 1 {}".format
    for one, other in ((a, b), (b, c), (c, a)):
        one.run(ping(other.address))
    lab.network.cut(a.number, b.number)
    seen = {guest: _asked(guest) for guest in (a, b)}
    for one, other in ((a, b), (b, a)):  # the request is lost, then the answer
        assert one.execute(ping(other.address), check=False).returncode == 1
    assert {guest: _asked(guest) - seen[guest] for guest in (a, b)} == {a: 1, b: 0}
    for one in (a, b):
        one.run(ping(c.address))
    b.power_cut()
    b.boot()
    assert a.execute(ping(b.address), check=False).returncode == 1  # the cut is in the network
    lab.network.mend(a.number, b.number)
    a.wait_for(ping(b.address))
    lab.network.cut(b.number, a.number)
    assert a.execute(ping(b.address), check=False).returncode == 1


def _asked(guest: Guest) -> int:
    """How many requests of ping a guest has received."""
    return int(guest.run("nstat -asz IcmpInEchos | awk '/IcmpInEchos/ {print $2}'"))


def test_a_journal_outlives_the_guest(lab: Lab) -> None:
    (guest,) = lab.boot(GuestSpec("a"))
    guest.start(f"stty -F {TERMINAL} raw && for i in {{1..200}}; do echo $i; done > {TERMINAL} && sleep 60")
    eventually(lambda: len(guest.journal) == 200, "all lines have come")
    guest.power_cut()
    lines = guest.journal.since(0)
    assert [int(line.text) for line in lines] == list(range(1, 201))
    assert sorted(lines, key=lambda line: line.at) == lines
    guest.boot().run(f"stty -F {TERMINAL} raw && echo again > {TERMINAL}")
    eventually(lambda: len(guest.journal) > 200, "a line of the second life")
    assert guest.journal.since(200)[0].text == "again"


def test_commands(lab: Lab) -> None:
    (guest,) = lab.boot(GuestSpec("a"))
    result = guest.execute("echo one; echo 'two\nlines' >&2; exit 7", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (7, "one\n", "two\nlines\n")
    with pytest.raises(CommandFailed, match="ended with 3"):
        guest.run("exit 3")
    with pytest.raises(CommandTimeout):
        guest.run("sleep 60", timeout=0.3)
    background = guest.start("echo up; sleep 60; echo never")
    background.wait_output("up")
    assert guest.run("echo meanwhile") == "meanwhile\n"
    background.signal("TERM")
    assert background.wait(10, check=False).returncode == 128 + 15
    assert guest.execute(f"kill -0 {background.pid}", check=False).returncode == 1
    guest.wait_for("! pgrep -x sleep")


def test_a_guest_sees_the_host_but_does_not_change_it(lab: Lab) -> None:
    a, b = lab.boot(GuestSpec("a"), GuestSpec("b"))
    a.run("echo mine | tee /etc/blockpair/x /var/lib/x /tmp/x /usr/local/blockpair-lab")
    assert b.execute("cat /etc/blockpair/x /var/lib/x /tmp/x", check=False).stdout == ""
    assert a.execute("echo > /lab/below/usr/local/x", check=False).returncode != 0
    assert b.run("test -e /usr/local/blockpair-lab || echo own").strip() == "own"
    assert (
        b.run("python -c 'import blockpair; print(blockpair.__file__)'")
        .strip()
        .endswith("blockpair/__init__.py")
    )


def test_power_cut_keeps_disks_only(lab: Lab) -> None:
    (guest,) = lab.boot(GuestSpec("a", disks_mib=[64] * 4))
    guest.run(
        "mdadm --create /dev/md/r10 --run --level=10 --raid-devices=4 --metadata=1.2 /dev/ubd[abcd]\n"
        "mkfs.ext4 -q /dev/md127 && mkdir /mnt/fs && mount /dev/md127 /mnt/fs\n"
        "seq 100000 > /mnt/fs/kept && sync /mnt/fs/kept /mnt/fs\n"
        "echo gone > /var/lib/state"
    )
    digest = guest.run("sha256sum < /mnt/fs/kept")
    guest.power_cut()
    with pytest.raises(GuestDied):
        guest.run("true")
    guest.boot()
    assert guest.execute("cat /var/lib/state", check=False).returncode == 1
    guest.run(
        "mdadm --assemble --run /dev/md/r10 /dev/ubd[abcd] && mkdir /mnt/fs && mount /dev/md127 /mnt/fs"
    )
    assert "active raid10" in guest.run("cat /proc/mdstat")
    assert guest.run("sha256sum < /mnt/fs/kept") == digest


def test_power_cut_ends_what_waits(lab: Lab) -> None:
    (guest,) = lab.boot(GuestSpec("a"))
    waiting = guest.start("echo up; sleep 60")
    waiting.wait_output("up")
    guest.power_cut()
    with pytest.raises(GuestDied):
        waiting.wait(10)


def test_freeze(lab: Lab) -> None:
    a, b = lab.boot(GuestSpec("a"), GuestSpec("b"))
    ping = f"ping -c 1 -W 1 {b.address}"
    a.run(ping)
    b.freeze()
    began = time.monotonic()
    assert a.execute(ping, check=False).returncode == 1
    asked = b.start("echo thawed")
    with pytest.raises(CommandTimeout):
        asked.wait(0.5)
    assert time.monotonic() - began > 0.5
    b.thaw()
    assert asked.wait().stdout == "thawed\n"
    a.wait_for(ping)
    assert b.run("echo awake") == "awake\n"


def test_without_root_the_lab_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabUnavailable, match=r"needs root.*sudo \./scripts/lab"):
        Lab()


def test_without_a_kernel_and_apt_the_lab_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unpacked, "_PATH", str(tmp_path))
    with pytest.raises(kernel.KernelUnavailable, match="BLOCKPAIR_CACHE"):
        kernel.ensure(tmp_path / "uml")
    (tmp_path / "uml").mkdir()  # as an interrupted copy leaves it
    assert kernel.cached(tmp_path / "uml") is None


def test_what_a_killed_run_left_is_removed(lab: Lab) -> None:
    script = (
        "import os, signal\n"
        "from tests.lab.harness import GuestSpec, Lab\n"
        "lab = Lab()\n"
        "lab.boot(GuestSpec('a'))\n"
        "print(lab.namespace, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -9, killed.stderr
    name = killed.stdout.strip()
    assert Path(f"/run/netns/{name}").exists()
    with Lab() as other:
        assert not Path(f"/run/netns/{name}").exists()
        assert Path(f"/run/netns/{lab.namespace}").exists()
        assert other.namespace != lab.namespace
        deadline = time.monotonic() + 10
        while _processes_of(name) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _processes_of(name) == []


def _processes_of(namespace: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"umid={namespace}-".encode() in file.read_bytes():  # a zombie's is empty
                found.append(file.parent.name)
    return found
