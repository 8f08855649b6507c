"""A file system of /etc/fstab is mounted by systemd each time that its node becomes Primary."""

from __future__ import annotations

import re

import pytest

from tests.lab.harness import SOURCE, Lab
from tests.lab.nodes import MOUNT, eventually
from tests.lab.systemd import Machine, pair_with_files

_PAGE = "docs/operations.md"
# udevd runs beside systemd, which is in a container and would not start it; the rules are the package's.
_UDEV = f"""set -e
for name in kernel control; do ln -sf /dev/null /etc/systemd/system/systemd-udevd-$name.socket; done
mkdir -p /run/udev/rules.d
cp {SOURCE}/packaging/udev/*.rules /run/udev/rules.d/
/lib/systemd/systemd-udevd --daemon
udevadm settle
"""


def _line() -> str:
    """The page's, for this resource and its mount point."""
    found = re.search(r"(?m)^    (/dev/blockpair/data +/srv/data .+)$", (SOURCE / _PAGE).read_text())
    assert found is not None, f"{_PAGE} has no line of /etc/fstab"
    return found[1].replace("/srv/data", MOUNT).replace("data", "r0")


@pytest.mark.timeout(1200)
@pytest.mark.long
def test_the_book_s_line_mounts_it_wherever_the_role_is(lab: Lab) -> None:
    n1, _ = pair_with_files(lab)
    n1.cli("demote r0")
    n1.end("TERM")
    n1.guest.run(_UDEV)
    n1.guest.run(f"cat >/etc/fstab <<'END'\n{_line()}\nEND\n")
    machine = Machine(n1)
    machine.boot()

    def mounted() -> bool:
        return machine.inside(f"mountpoint -q {MOUNT}", check=False).returncode == 0

    for _ in range(2):
        assert not mounted()
        machine.inside("blockpair promote r0", 120)
        eventually(mounted, f"systemd has mounted {MOUNT}", 60)
        machine.inside(f"date >>{MOUNT}/written")
        machine.inside(f"umount {MOUNT}")
        machine.inside("blockpair demote r0", 120)
    assert n1.io_errors() == []
