"""From a real DRBD (8.4, the kernel's module) to blockpair, by the commands of the book; the data stay."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest

from tests.lab.harness import SOURCE, Guest, GuestSpec, Lab
from tests.lab.nodes import Node, make_cluster

_PAGE = (SOURCE / "docs/from-drbd.md").read_text()
_MOUNT = "/srv/data"
_FILES = 40
_RESOURCE = """
resource data {{
  net {{ protocol C; }}
  on alpha {{ device /dev/drbd0; disk /dev/ubda; address {alpha}:7799; meta-disk internal; }}
  on beta {{ device /dev/drbd0; disk /dev/ubda; address {beta}:7799; meta-disk internal; }}
}}
"""


def _told() -> Iterator[tuple[str, bool]]:
    """The commands of the page's procedure, and whether it has them on both nodes."""
    procedure = _PAGE.partition("## The data, in place")[2].partition("\n## ")[0]
    for line in procedure.splitlines():
        if found := re.fullmatch(r" {8}([^#]+?)(\s+# on both)?", line):
            yield found[1].replace("/dev/sdb", "/dev/ubda"), bool(found[2])


def _drbd(nodes: list[Guest]) -> None:
    """A DRBD device with a file system and files, on both nodes; mounted on the first."""
    alpha, beta = nodes
    resource = _RESOURCE.format(alpha=alpha.address, beta=beta.address)
    for node in nodes:
        node.run(
            "set -e\nmodprobe drbd\nmkdir -p /var/lib/drbd /run/drbd\n"
            "echo 'global { usage-count no; }' >/etc/drbd.d/global_common.conf\n"
            f"cat >/etc/drbd.d/data.res <<'END'{resource}END\n"
            "drbdadm -- --force create-md data\n"
            "drbdadm up data\n"
            # There is no udev here.
            "[ -b /dev/drbd0 ] || mknod /dev/drbd0 b 147 0"
        )
    alpha.wait_for("drbdadm cstate data | grep -x Connected")
    # Two empty disks need no first synchronisation.
    alpha.run("drbdadm -- --clear-bitmap new-current-uuid data")
    alpha.wait_for("drbdadm dstate data | grep -x UpToDate/UpToDate")
    alpha.run("drbdadm primary data")
    alpha.run(f"mkfs.xfs -q -s size=512 /dev/drbd0 && mkdir {_MOUNT} && mount /dev/drbd0 {_MOUNT}")
    writer = alpha.start(f"exec python -m tests.lab.files_tool write {_MOUNT}/files 0")
    writer.wait_output(f"\n{_FILES} ", 120)
    writer.signal("KILL")
    writer.wait(check=False)
    beta.wait_for("drbdadm dstate data | grep -x UpToDate/UpToDate")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("drbdadm") is None, reason="needs DRBD's tools: apt-get install drbd-utils")
def test_the_data_stay_where_they_are(lab: Lab) -> None:
    guests = lab.boot(GuestSpec("alpha", (320, 16)), GuestSpec("beta", (320, 16)))
    alpha, beta = guests
    _drbd(guests)
    nodes = [Node(guest, guest.disks[0]) for guest in guests]
    for node in nodes:
        node.guest.run(node.prepare(first=True))
        node.start()
    make_cluster(*nodes)
    size = int(alpha.run("blockdev --getsize64 /dev/drbd0"))
    alpha.run(f"umount {_MOUNT}")
    create = next(command for command, _ in _told() if command.startswith("blockpair create"))
    for guest in guests:
        guest.run("drbdadm down data")
    # DRBD's metadata are known for what they are, and --force does not pass over them by accident.
    refused = alpha.execute(create.replace(" --force", ""), check=False)
    assert refused.returncode == 3 and "drbd" in refused.stderr, refused

    for command, everywhere in _told():
        for guest in guests if everywhere else [alpha]:
            # It asks a person, on a terminal.
            guest.run(command.replace("drbdadm wipe-md", "drbdadm -- --force wipe-md"), 120)
    alpha.run("blockpair sync data --wait", 120)
    check = f"python -m tests.lab.files_tool check {_MOUNT}/files {_FILES}"
    alpha.run(check)
    (resource,) = json.loads(alpha.execute("blockpair status data --json", check=False).stdout)["resources"]
    (peer,) = resource["engine"]["peers"]
    # What was equal was not sent: what differs is what mounting has written.
    assert peer["last_resync"]["sent_bytes"] < 4 << 20, peer["last_resync"]
    assert int(alpha.run("blockdev --getsize64 /dev/blockpair/data")) > size

    # It is a pair: the other node has it all.
    alpha.run(f"xfs_growfs {_MOUNT} && umount {_MOUNT} && xfs_repair -n /dev/blockpair/data")
    alpha.run("blockpair switchover data")
    beta.run(f"mkdir -p {_MOUNT} && mount /dev/blockpair/data {_MOUNT} && {check}")
