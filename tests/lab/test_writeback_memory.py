"""Write-back through the product's device on a guest that has far less memory than there is to write back."""

from __future__ import annotations

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, MOUNT, make_pair

_MIB = 512


@pytest.mark.long
@pytest.mark.timeout(400)
def test_far_more_dirty_data_than_memory(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=_MIB + 64, memory_mib=(192, 256), array=False)
    n1.cli("promote r0")
    assert int(n1.guest.run(f"grep VmLck /proc/{n1.daemon.pid}/status").split()[1]) > 0
    assert int(n1.guest.run(f"cat /proc/{n1.daemon.pid}/oom_score_adj")) < 0
    assert any(name.startswith("bp-") for name in n1.protected_threads()), n1.protected_threads()
    n1.make_file_system()
    # The page cache may fill nearly all of the memory before anybody is told to write back.
    n1.guest.run("echo 80 > /proc/sys/vm/dirty_ratio; echo 70 > /proc/sys/vm/dirty_background_ratio")
    n1.guest.run(
        f"head -c {_MIB}M /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 2>/dev/null "
        f"| tee {MOUNT}/big | sha256sum > /run/sum && sync {MOUNT}/big",
        timeout=240,
    )
    assert n1.daemon.running
    assert n1.io_errors() == []
    n1.wait("primary,synced", 120)
    n1.guest.run(f"umount {MOUNT} && e2fsck -fn {LINK}", timeout=120)
    digest = n1.guest.run("cat /run/sum")
    n1.cli("demote r0")
    n2.cli("promote r0")
    n2.guest.run(f"mount {LINK} {MOUNT}")
    assert n2.guest.run(f"sha256sum < {MOUNT}/big", timeout=120) == digest
