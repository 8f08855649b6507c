"""The service's unit: as closed as it can be, and open for what the daemon does."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from blockpair.arbiter.witness.places import SYSTEM_RUN, SYSTEM_STATE
from blockpair.config.locations import locations

PACKAGING = Path(__file__).parents[2] / "packaging"
UNIT = PACKAGING / "systemd/blockpaird.service"
INHIBIT = PACKAGING / "systemd/blockpair-inhibit.service"
WITNESS = PACKAGING / "systemd/blockpair-witness.service"

# Each gives a service a mount namespace of its own (systemd.exec(5), "Sandboxing"): what it mounts, the
# system would not see.
MOUNT_NAMESPACE = [
    "BindPaths",
    "BindReadOnlyPaths",
    "ExecPaths",
    "InaccessiblePaths",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateTmp",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
    "DynamicUser",
    "PrivateUsers",
]
# What it does for disks, memory, peers and the programs that it starts.
NEEDED_CALLS = """
mount umount2 mknodat mlockall prctl prlimit64 ioctl flock fallocate pwritev2 preadv2
sync_file_range fdatasync io_uring_setup io_uring_enter io_uring_register epoll_wait
eventfd2 splice sendmsg recvmsg accept4 chown fchmod renameat symlink statx execve
vfork clone3 getrandom sched_setaffinity
setns pidfd_open pidfd_send_signal
"""
# What it does for sockets, its database, threads and files that are replaced.
WITNESS_CALLS = """
accept4 bind listen setsockopt sendmsg recvfrom epoll_wait eventfd2 openat fsync fdatasync pwrite64 pread64
fcntl flock ftruncate mmap rename unlink mkdir fchmod chmod clone3 getrandom socketpair
"""
# Each closes /dev to a disk that an administrator names, or to nbd.
DEVICES = ("DeviceAllow", "DevicePolicy", "ProtectClock")


def directives(unit: Path = UNIT) -> dict[str, list[str]]:
    """The values of each directive, whatever its section."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def words(key: str) -> set[str]:
    """All words of all lines of a directive."""
    return {word for value in directives()[key] for word in value.split()}


@pytest.mark.parametrize("key", MOUNT_NAMESPACE)
def test_what_it_mounts_everybody_sees(key: str) -> None:
    assert key not in directives()


@pytest.mark.parametrize("key", DEVICES)
def test_the_disks_are_within_its_reach(key: str) -> None:
    assert key not in directives()


def test_it_may_do_what_the_daemon_does_and_little_else() -> None:
    """The end-to-end test of the service runs a daemon with just these."""
    held = words("CapabilityBoundingSet")
    needed = "SYS_ADMIN MKNOD IPC_LOCK SYS_RESOURCE CHOWN FSETID DAC_OVERRIDE SYS_PTRACE"
    for_services = "NET_ADMIN NET_RAW KILL SYS_CHROOT SYS_RAWIO"
    assert held == {f"CAP_{name}" for name in f"{needed} {for_services}".split()}
    families = {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"}
    assert words("RestrictAddressFamilies") == families
    found = directives()
    assert found["NoNewPrivileges"] == found["MemoryDenyWriteExecute"] == ["yes"]
    # A holder's mount in a namespace of its own is unmounted there.
    assert found["RestrictNamespaces"] == ["mnt"]
    # The daemon sets that bit on the directory of the NBD sockets (daemon/app.py).
    assert "RestrictSUIDSGID" not in found


def test_no_address_outlives_the_daemon() -> None:
    [command] = directives()["ExecStopPost"]
    # "-": a guard that cannot remove one is told in the journal, and does not keep the daemon from its
    # restart.
    assert command == f"-/usr/bin/blockpair-vip-guard --drop {locations({}).vips}"
    # Its guard is not told to end with it: it may have to move the service first, with the addresses on it.
    assert directives()["KillMode"] == ["mixed"]


def test_a_daemon_that_ended_or_hangs_is_replaced_at_once() -> None:
    found = directives()
    assert found["Restart"] == ["always"] and found["StartLimitIntervalSec"] == ["0"]
    assert [directives(unit)["WatchdogSec"] for unit in (UNIT, WITNESS)] == [["30"], ["30"]]


def test_what_is_mounted_goes_before_the_daemon_and_arrays_come_before_it() -> None:
    found = directives()
    after = " ".join(found["After"]).split()
    assert found["Before"] == ["remote-fs-pre.target"] and "remote-fs-pre.target" in found["Wants"]
    assert {"local-fs.target", "mdmonitor.service", "systemd-udevd.service"} <= set(after)
    assert found["ExecStartPre"] == ["-/usr/bin/udevadm settle --timeout=30"]


def test_the_service_manager_hears_when_it_is_ready_and_keeps_what_it_must_find_again() -> None:
    found = directives()
    assert found["Type"] == ["notify"]
    # A restarted daemon knows by run/primary that it was Primary.
    assert found["RuntimeDirectory"] == ["blockpair"] and found["RuntimeDirectoryPreserve"] == ["yes"]
    assert found["StateDirectoryMode"] == ["0700"]
    assert found["LimitMEMLOCK"] == ["infinity"]


def system_calls(unit: Path) -> set[str]:
    """The names of those that a unit lets through."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")

    def members(groups: list[str]) -> set[str]:
        found: set[str] = set()
        while groups:
            done = subprocess.run(
                [program, "syscall-filter", groups.pop()],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            names = {line.strip() for line in done.stdout.splitlines() if line.startswith("    ")}
            groups += [name for name in names if name.startswith("@")]
            found |= names
        return found

    allowed: set[str] = set()
    for value in directives(unit)["SystemCallFilter"]:
        if value.startswith("~"):
            allowed -= members(value.removeprefix("~").split())
        else:
            allowed |= members(value.split())
    return allowed


@pytest.mark.parametrize(("unit", "needed"), [(UNIT, NEEDED_CALLS), (WITNESS, WITNESS_CALLS)])
def test_every_system_call_that_it_needs_is_let_through(unit: Path, needed: str) -> None:
    allowed = system_calls(unit)
    assert not [name for name in needed.split() if name not in allowed]


def test_the_witness_may_next_to_nothing() -> None:
    found = directives(WITNESS)
    assert found["CapabilityBoundingSet"] == [""] and found["DynamicUser"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"] and found["PrivateDevices"] == ["yes"]
    assert set(found["RestrictAddressFamilies"][0].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}
    assert found["StateDirectoryMode"] == ["0700"] and found["Type"] == ["notify"]
    # What it keeps where the program looks for it.
    assert found["StateDirectory"] == [SYSTEM_STATE.name] and found["RuntimeDirectory"] == [SYSTEM_RUN.name]
    forbidden = {"mount", "reboot", "init_module", "ptrace", "bpf", "setuid", "chown"}
    assert not forbidden & system_calls(WITNESS)


@pytest.mark.parametrize("path", [UNIT, WITNESS, INHIBIT], ids=lambda path: path.stem)
def test_systemd_understands_the_unit(path: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    # The programs are not installed here; units that wait for others look for them.
    for each in (UNIT, WITNESS, INHIBIT):
        text = re.sub("(?m)^(ExecStart|ExecStartPre)=.*", r"\1=/bin/true", each.read_text())
        (tmp_path / each.name).write_text(text)
    unit = tmp_path / path.name
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd-analyze cannot work here")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("unit", "most"), [(UNIT, 60), (WITNESS, 15), (INHIBIT, 40)], ids=lambda unit: str(unit)[-20:]
)
def test_no_unit_is_more_exposed_than_it_was(unit: Path, most: int) -> None:
    """By systemd's own count, in tenths. What the daemon's has left out, it says, with reasons."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    command: list[str | Path] = [
        program,
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={most}",
        unit,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "Overall exposure level" not in done.stdout:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout


def test_the_inhibitor_is_stopped_before_the_daemon_and_waits_for_it_in_a_shutdown_alone() -> None:
    lines = INHIBIT.read_text().splitlines()
    assert "After=blockpaird.service systemd-logind.service" in lines
    assert "ExecStart=/usr/bin/blockpair may-stop --inhibit" in lines
    [stop] = [line for line in lines if line.startswith("ExecStop=")]
    assert "is-system-running" in stop and "may-stop --wait --timeout 2m" in stop
    # What it waits for must fit in what the service manager waits.
    assert "TimeoutStopSec=150" in lines


def test_group_and_directories_are_made(tmp_path: Path) -> None:
    users, files = shutil.which("systemd-sysusers"), shutil.which("systemd-tmpfiles")
    if users is None or files is None:
        pytest.skip("there is no systemd-sysusers or systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\ndisk:x:6:\n")
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    subprocess.run(
        [users, f"--root={tmp_path}", PACKAGING / "sysusers.d/blockpair.conf"], check=True, timeout=60
    )
    assert "\nblockpair:x:" in (tmp_path / "etc/group").read_text()
    arguments: list[str | Path] = [
        files,
        f"--root={tmp_path}",
        "--create",
        PACKAGING / "tmpfiles.d/blockpair.conf",
    ]
    if subprocess.run(arguments, check=False, capture_output=True, timeout=60).returncode != 0:
        pytest.skip("only root can give directories to others")
    modes = {
        name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("run/blockpair", "var/lib/blockpair")
    }
    assert modes == {"run/blockpair": 0o755, "var/lib/blockpair": 0o700}
    assert (tmp_path / "run/blockpair/nbd").stat().st_gid == 6
