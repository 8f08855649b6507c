"""A node whose daemon is a unit of systemd, as `scripts/install` has it."""

from __future__ import annotations

from tests.lab.harness import SOURCE, Command, Lab, Result
from tests.lab.nodes import MOUNT, Node, eventually, make_pair

# What a boot spends most of its time with here, and the disk's order does not depend on.
_MASKED = (
    "systemd-udevd systemd-udev-trigger systemd-logind dbus.service dbus.socket systemd-user-sessions"
    " console-getty systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-tmpfiles-clean.timer"
    " systemd-journal-flush systemd-update-utmp apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer"
    " fstrim.timer dpkg-db-backup.timer mdmonitor logrotate.timer man-db.timer"
)
ALL_STOPPED = "Received SIGTERM from PID 1"
_PROGRAMS = ("blockpair", "blockpaird", "blockpair-vip-guard")
# The guest's own first process stays: systemd is the first one of a namespace, as in a container.
_BOOT = """
mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null
exec unshare --pid --fork --mount --uts --ipc --cgroup --mount-proc \
    env container=lab /lib/systemd/systemd --system --unit=multi-user.target
"""


class Machine:
    """A node whose daemon is a unit of systemd, as `scripts/install` has it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._guest = node.guest
        lines = [f"ln -sf $(command -v {program}) /usr/bin/{program}" for program in _PROGRAMS]
        units = "/etc/systemd/system"
        self._guest.run(
            "set -e\n" + "\n".join(lines) + "\n"
            f"hostname >/etc/hostname\nrm -rf {units}/*.wants\n"
            f"for unit in {_MASKED}; do\n"
            f"case $unit in *.*) ;; *) unit=$unit.service;; esac; ln -sf /dev/null {units}/$unit; done\n"
            f"cp {SOURCE}/packaging/systemd/blockpaird.service {units}/\n"
            f"mkdir -p {units}/multi-user.target.wants\n"
            f"ln -s {units}/blockpaird.service {units}/multi-user.target.wants/\n"
        )
        self._init: Command | None = None

    def inside(self, command: str, timeout: float = 60, *, check: bool = True) -> Result:
        """A command beside systemd, in its namespaces."""
        entered = f"nsenter --target $(pgrep -o -x systemd) --pid --mount -- bash -c '{command}'"
        return self._guest.execute(entered, timeout, check)

    def boot(self) -> None:
        """Until the daemon is ready."""
        self._init = self._guest.start(_BOOT)
        eventually(
            lambda: self.inside("systemctl is-active blockpaird", check=False).stdout == "active\n",
            f"systemd has started the daemon: {self._init.stderr}",
            180,
        )

    def order(self, unit: str, direction: str) -> set[str]:
        """The units that a unit comes ``Before``, or ``After``, when it is started; stopped, it is the other
        way round.
        """
        return set(self.inside(f"systemctl show --value -p {direction} {unit}").stdout.split())

    def power_off(self) -> list[str]:
        """Have systemd stop everything, until it has nothing left but processes to kill; the kernel's log."""
        self.inside("systemctl poweroff", check=False)
        self._guest.wait_for(f"dmesg | grep '{ALL_STOPPED}'", 240)
        return self._guest.run("dmesg").splitlines()


def pair_with_files(lab: Lab) -> tuple[Node, Node]:
    """Two nodes; the first is Primary, and its file system is mounted nowhere."""
    n1, n2 = make_pair(lab, array=False, memory_mib=(512, 256))
    n1.cli("promote r0")
    n1.make_file_system()
    n1.guest.run(f"umount {MOUNT}")
    return n1, n2
