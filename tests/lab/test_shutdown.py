"""A machine with systemd goes down with its disk in use: the service moves, and nothing fails."""

from __future__ import annotations

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT
from tests.lab.systemd import ALL_STOPPED, Machine, pair_with_files


@pytest.mark.timeout(1200)
@pytest.mark.long
def test_a_service_moves_before_anything_else_ends(lab: Lab) -> None:
    n1, n2 = pair_with_files(lab)
    n1.end("TERM")
    machine = Machine(n1)
    machine.boot()

    # By hand, with _netdev, as the book says: it goes before the daemon.
    machine.inside(f"mount -o _netdev {LINK} {MOUNT}")
    assert "remote-fs-pre.target" in machine.order("srv-fs.mount", "After")
    assert "remote-fs-pre.target" in machine.order("blockpaird", "Before")
    machine.inside(f"umount {MOUNT}")
    # The daemon's own goes after it: the daemon has to be asked first, which takes it down itself.
    machine.inside(f"blockpair service set r0 --mount {MOUNT} && blockpair promote r0")
    machine.inside(f"date >{MOUNT}/written")
    assert "local-fs.target" in machine.order("srv-fs.mount", "Before")
    assert "local-fs.target" in machine.order("blockpaird", "After")

    log = machine.power_off()
    steps = ("unmounting filesystem", "NBD_DISCONNECT", ALL_STOPPED)
    last = [max(at for at, line in enumerate(log) if step in line) for step in steps]
    assert last == sorted(last), log[-20:]
    assert n1.io_errors() == []
    n2.guest.wait_for(f"test -s {MOUNT}/written && mountpoint {MOUNT}", 60)
    assert n2.report()["engine"]["role"] == "Primary"
