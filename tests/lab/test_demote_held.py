"""Demoting while somebody holds the kernel's device is refused, with their names; it goes when they do."""

from __future__ import annotations

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, make_lone


def test_holders_are_named(lab: Lab) -> None:
    n1 = make_lone(lab)
    n1.make_file_system()
    writer = n1.writer("files")
    reader = n1.guest.start(f"exec sleep 600 < {LINK}")
    n1.guest.wait_for(f"[ /proc/{reader.pid}/fd/0 -ef {LINK} ]")

    message = n1.refused("demote r0")
    assert f"mounted on {MOUNT}" in message
    assert "files_tool write" in message
    assert f"sleep 600 (pid {reader.pid})" in message
    assert "remedy: " in message
    assert n1.report()["engine"]["role"] == "Primary"
    assert "is in use" in n1.refused("down r0")
    writer.advance(5)  # refused means untouched

    writer.stop()
    n1.guest.run(f"umount {MOUNT}")
    message = n1.refused("demote r0")
    assert f"sleep 600 (pid {reader.pid})" in message
    assert "mounted" not in message
    reader.signal("KILL")
    reader.wait(check=False)

    n1.cli("demote r0")
    n1.guest.run(f"[ ! -e {LINK} ] && [ ! -e /sys/block/nbd0/backend ]")
    assert n1.guest.run("cat /sys/block/nbd0/size").strip() == "0"
    n1.cli("promote r0")  # and it comes back, with everything on it
    n1.guest.run(f"mount {LINK} {MOUNT}")
    writer.check(n1)
    assert n1.io_errors() == []
