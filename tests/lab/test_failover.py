"""A node loses its power under a mounted file system; the other takes over; the first comes back."""

from __future__ import annotations

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import ARRAY, LINK, MOUNT, Metadata, assert_same_content, make_pair


@pytest.mark.parametrize("metadata", [pytest.param("internal", marks=pytest.mark.long), "external"])
def test_power_cut_of_the_primary(lab: Lab, metadata: Metadata) -> None:
    n1, n2 = make_pair(lab, metadata=metadata)
    n1.cli("promote r0")
    assert n1.guest.run(f"[ -b {LINK} ] && readlink {LINK}").startswith("/dev/nbd")
    n1.make_file_system()
    first = n1.writer("first", pause_s=0)
    first.advance(40)
    n1.guest.power_cut()
    assert first.count >= 45

    n2.wait("disconnected")
    message = n2.refused("promote r0")
    assert "remedy: " in message
    assert "--force" in message
    n2.guest.run(f"[ ! -e {LINK} ]")  # refused means nothing is served
    n2.cli("promote r0 --force --yes")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    assert "recovery complete" in n2.guest.run("dmesg")  # the journal was in use, and was replayed
    first.check(n2)
    second = n2.writer("second", pause_s=0.1)
    second.advance(20)

    n1.power_up()
    assert "[4/4] [UUUU]" in n1.guest.run(f"cat /proc/mdstat; [ -b {ARRAY} ]")
    n1.wait("uptodate,secondary,synced")
    n1.guest.run(f"[ ! -e {LINK} ]")
    resync = n1.peer()["last_resync"]
    size = n1.report()["engine"]["size_bytes"]
    assert resync["finished"]
    assert resync["direction"] == "from_peer"
    # Compared is also what might have been on its way when the power went, but only what differs moves.
    assert 0 < resync["sent_bytes"] < size // 2
    # The rest is what the application overwrote before its turn came.
    assert resync["sent_bytes"] + resync["same_bytes"] <= resync["total_bytes"] == resync["done_bytes"]
    second.advance(10)  # the file system stayed in use all the time
    second.stop()

    n2.guest.run(f"umount {MOUNT}")
    n2.cli("demote r0")
    n1.cli("promote r0")
    n1.guest.run(f"mount {LINK} {MOUNT}")
    first.check(n1)
    second.check(n1)
    n1.guest.run(f"umount {MOUNT} && e2fsck -fn {LINK}")
    assert n1.io_errors() == []
    assert n2.io_errors() == []
    n1.cli("demote r0")
    assert_same_content(n1, n2)
