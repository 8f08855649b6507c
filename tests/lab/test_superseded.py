"""A Primary loses its role under a mounted file system: errors there, for good, and a fresh device later."""

from __future__ import annotations

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, make_pair

AGAIN = "/srv/again"


def test_what_it_had_mounted_never_comes_back_to_life(lab: Lab) -> None:
    n1, n2 = make_pair(lab, array=False)
    n1.cli("promote r0")
    n1.guest.run(f"mkfs.ext4 -q -E lazy_itable_init=0 {LINK} && mount {LINK} {MOUNT}")
    n1.guest.run(
        f"echo old > {MOUNT}/file && sync -f {MOUNT} && umount {MOUNT} && mount -o ro {LINK} {MOUNT}"
    )
    device = n1.guest.run(f"readlink {LINK}").strip()

    # It hears nothing, and somebody takes it for dead.
    n1.daemon.signal("STOP")
    n2.wait("disconnected")
    n2.cli("promote r0 --force --yes")
    n2.guest.run(f"mount {LINK} {MOUNT} && echo new > {MOUNT}/file && umount {MOUNT}")
    n1.daemon.signal("CONT")
    n1.wait("secondary,synced")
    n1.guest.run(f"[ ! -e {LINK} ]")
    fails = f"echo 3 > /proc/sys/vm/drop_caches; ! cat {MOUNT}/file"
    n1.guest.run(fails)

    # Primary again, while the old mount is still there: another device, and the old one stays dead.
    n2.cli("demote r0")
    n1.cli("promote r0")
    n1.guest.run(f"[ $(readlink {LINK}) != {device} ]")
    assert n1.guest.run(f"mkdir {AGAIN} && mount {LINK} {AGAIN} && cat {AGAIN}/file").strip() == "new"
    n1.guest.run(fails)
    # Nor does a daemon that restarts serve the old one on.
    assert n1.end("KILL") == 128 + 9
    n1.start()
    n1.wait("primary")
    n1.guest.run(f"echo newer > {AGAIN}/file && sync -f {AGAIN}")
    n1.guest.run(fails)
    n1.guest.run(f"umount {MOUNT} {AGAIN}")
    n1.cli("demote r0")
