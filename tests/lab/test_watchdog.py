"""The kernel's own watchdog, `softdog`: armed while a node is Primary; one that cannot renew is reset."""

from __future__ import annotations

import pytest

from tests.lab.harness import Lab
from tests.lab.nodes import LINK, Node, eventually
from tests.lab.trio import make_trio

# The guest's /dev/watchdog is User-Mode Linux's own, which wants a helper on the host; this is softdog's.
_DEVICE = "/dev/watchdog1"
_CONFIG = f'\\n[watchdog]\\nmode = "required"\\ndevice = "{_DEVICE}"\\ntimeout = "3s"\\n'
_RESET = "Initiating system reboot"


def _is_armed(node: Node) -> bool:
    # Open is armed.
    looked = node.guest.execute(f"ls -l /proc/{node.daemon.pid}/fd | grep -q {_DEVICE}", check=False)
    return looked.returncode == 0


@pytest.mark.timeout(400)
def test_a_primary_that_cannot_renew_is_reset_and_one_that_was_demoted_is_not(lab: Lab) -> None:
    (n1, n2), _ = make_trio(lab, "default")
    n1.cli("demote r0")
    n2.cli("promote r0")
    n1.guest.run(f"printf '{_CONFIG}' >> /etc/blockpair/blockpair.toml")
    assert n1.end("TERM") == 0
    n1.start()
    n1.wait("connected,synced")

    # Without the device it may not.
    n2.cli("demote r0")
    result = n1.guest.execute("blockpair promote r0", check=False)
    assert result.returncode != 0 and _DEVICE in result.stderr, result.stderr
    # With it, what was asked of the arbiter may come true before it is asked again.
    n1.guest.run(f"modprobe softdog && [ -c {_DEVICE} ]")
    n1.cli("promote r0")
    assert _is_armed(n1)
    n1.guest.run(f"dd if=/dev/zero of={LINK} bs=4096 count=1 oflag=direct status=none")
    n1.cli("demote r0")
    eventually(lambda: not _is_armed(n1), "the watchdog is let go of")

    # The daemon stands still; so does the renewal.
    n1.cli("promote r0")
    n1.daemon.signal("STOP")
    n2.wait("primary")
    eventually(lambda: _RESET in n1.guest.console_tail(20_000), "the watchdog resets n1", 60)
    n2.guest.run(f"dd if=/dev/zero of={LINK} bs=4096 count=1 oflag=direct status=none")
    n1.guest.power_cut()
    n1.power_up()
    n1.wait("secondary,synced")
