"""The daemon ends, in whatever way, under a mounted file system with a writer: the writer only waits."""

from __future__ import annotations

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, Node, Writer, assert_same_content, make_pair

_NEXT = "9.9.9"


def _restart(node: Node, writer: Writer, signal: str, *, upgrade: bool = False) -> float:
    """End the daemon and start it again: the same kernel device goes on, under the same name. The longest
    time in seconds that the writer waited.
    """
    device = f"cat /sys/block/nbd0/backend && readlink {LINK} && mountpoint -d {MOUNT}"
    before = node.guest.run(device)
    assert node.end(signal) == (128 + 9 if signal == "KILL" else 0), node.daemon.stderr
    standing = writer.count
    assert node.guest.run(device) == before
    # Nothing becomes durable without a daemon; the writer may not have told yet of what was just before.
    assert writer.count <= standing + 1
    if upgrade:
        node.install(_NEXT)
    node.start()
    writer.advance(10, timeout=60)
    assert node.guest.run(device) == before
    return writer.longest_wait_s(standing - 1)


def test_the_writer_only_waits(lab: Lab) -> None:
    n1, n2 = make_pair(lab, array=False)
    n1.cli("promote r0")
    n1.make_file_system()
    writer = n1.writer("files", pause_s=0.01)
    killed = _restart(n1, writer, "KILL")
    assert _NEXT not in n1.daemon.stderr
    upgraded = _restart(n1, writer, "TERM", upgrade=True)
    assert f"version={_NEXT}" in n1.daemon.stderr
    print(f"the writer waited {killed:.1f} s for a daemon that was killed, {upgraded:.1f} s for an upgrade")
    n1.wait("primary,synced")

    # Alone, and its peer cannot be asked whether it took over.
    n2.guest.unplug()
    n1.wait("disconnected")
    _restart(n1, writer, "KILL")
    n2.guest.plug()
    n1.wait("primary,synced")

    # The Secondary's daemon: the Primary goes on without it, and it catches up.
    assert n2.end("KILL") == 128 + 9
    writer.advance(5)
    n2.start()
    n1.wait("primary,synced")
    writer.advance(5)
    assert n1.io_errors() == []
    report = n1.report()
    assert report["kernel_device"]["link"] == LINK
    assert report["kernel_device"]["error"] is None

    # A daemon that comes back and finds its peer Primary does not go on writing: its users get errors.
    n1.end("KILL")
    n2.wait("disconnected")
    n2.cli("promote r0 --force --yes")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    writer.check(n2)
    n1.start()
    n1.guest.wait_for(f"[ ! -e {LINK} ]")
    assert n1.report()["engine"]["role"] == "Secondary"
    assert "OSError" in writer.await_error()
    n2.guest.run(f"echo mine > {MOUNT}/n2 && sync {MOUNT}/n2")
    writer.check(n2)
    n2.wait("primary,synced")
    n2.guest.run(f"umount {MOUNT} && e2fsck -fn {LINK}")
    n2.cli("demote r0")
    assert_same_content(n1, n2)
