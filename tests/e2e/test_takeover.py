"""A whole service goes up and down on a real machine: a file system on a loop device, an address in a network
namespace. Only systemd is stood in for, by a script that keeps its units as files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blockpair.failover.file_system import SUPERBLOCK_BYTES, state_of
from blockpair.failover.plan import FileSystemState
from tests.e2e.cluster import eventually
from tests.e2e.namespace import Namespace
from tests.e2e.service_tool import loops
from tests.e2e.test_vip import mac, wait_for

pytestmark = pytest.mark.skipif(
    not Namespace.possible()
    or any(shutil.which(name) is None for name in ("losetup", "mkfs.ext4", "debugfs")),
    reason="needs root, network namespaces, loop devices and e2fsprogs",
)

VIP = "192.0.2.10/24@eth0"
# is-active, start, stop, kill, reset-failed, as systemctl answers; slow.service starts when it may.
SYSTEMCTL = """\
#!/bin/sh
cd "$(dirname "$0")/../units" || exit 1
verb="$1"
shift
while [ "${1#-}" != "$1" ]; do shift; done
case "$verb" in
    is-active) for unit; do if [ -e "$unit" ]; then echo active; else echo inactive; fi; done ;;
    start)
        case "$1" in
            broken.service) echo "Job for $1 failed because the control process exited." >&2; exit 1 ;;
            slow.service) [ -e ../quick ] || { echo $$ >../starting; exec sleep 600; } ;;
        esac
        : >"$1" ;;
    stop | kill) rm -f "$1" ;;
esac
"""


@dataclass
class Life:
    """A process that carries out wishes."""

    process: subprocess.Popen[str]

    def wish(self, line: str) -> None:
        """Say a wish."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def carry_out(self, line: str) -> dict[str, Any]:
        """Say a wish; its result."""
        self.wish(line)
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told


@dataclass
class Place:
    """A node with a disk."""

    directory: Path
    net: Namespace
    neighbour: Namespace
    table: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Path:
        return self.directory / "disk.img"

    @property
    def point(self) -> Path:
        return self.directory / "mnt"

    def define(self, **table: Any) -> None:
        """The service that it carries."""
        self.table = {"mount": str(self.point), "units": ["db.service"], "vips": [VIP], **table}
        (self.directory / "service.json").write_text(json.dumps(self.table))

    @contextlib.contextmanager
    def life(self) -> Iterator[Life]:
        """A life of the node; its end takes the addresses away."""
        process = subprocess.Popen(
            [*self.net.prefix, sys.executable, "-m", "tests.e2e.service_tool", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": f"{self.directory}/bin:{os.environ['PATH']}"},
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            yield Life(process)
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()

    @contextlib.contextmanager
    def carries(self, wish: str) -> Iterator[dict[str, Any]]:
        """The result of a wish, while the node lives that carried it out."""
        with self.life() as life:
            yield life.carry_out(wish)

    def mounted(self) -> bool:
        return f" {self.point} " in Path("/proc/self/mounts").read_text()

    def attached(self) -> bool:
        return bool(loops(self.image))

    def active(self, unit: str = "db.service") -> bool:
        return (self.directory / "units" / unit).exists()

    def holds(self) -> bool:
        return " 192.0.2.10/24 " in self.net.shows("address", "eth0")

    def up(self) -> bool:
        return self.attached() and self.mounted() and self.active() and self.holds()

    def down(self) -> bool:
        return not (self.attached() or self.mounted() or self.active() or self.holds())

    def debugfs(self, request: str) -> None:
        # A device that somebody still looked into is let go of a moment later, and keeps what it has read.
        eventually(lambda: not loops(self.image, ending=True), "the disk is free")
        subprocess.run(["debugfs", "-w", "-R", request, str(self.image)], check=True, capture_output=True)

    def left_as(self) -> FileSystemState:
        with self.image.open("rb") as stream:
            return state_of("ext4", stream.read(SUPERBLOCK_BYTES))


@contextlib.contextmanager
def placed(directory: Path, net: Namespace, neighbour: Namespace) -> Iterator[Place]:
    """A node with a file system on a new disk, in ``directory``; at the end nothing of it is mounted."""
    made = Place(directory, net, neighbour)
    for name in ("mnt", "units", "bin"):
        (directory / name).mkdir()
    (directory / "bin/systemctl").write_text(SYSTEMCTL)
    (directory / "bin/systemctl").chmod(0o755)
    with made.image.open("wb") as stream:
        stream.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(made.image)], check=True)
    made.define()
    try:
        yield made
    finally:
        while made.mounted():
            subprocess.run(["umount", str(made.point)], check=True)
        for device in loops(made.image):
            subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        switch, a, b = (stack.enter_context(contextlib.closing(Namespace())) for _ in range(3))
        a.plug(switch, "a", "192.0.2.1/24")
        b.plug(switch, "b", "192.0.2.2/24")
        yield stack.enter_context(placed(tmp_path, a, b))


def test_a_service_goes_up_in_order_and_down_again(place: Place) -> None:
    with place.carries("promote") as result:
        assert (result["outcome"], result["why"]) == ("done", "")
        assert [step for step, _ in result["steps"]] == [
            "promote", "fsck", "mount", "unit db.service", "health", "probe", f"vip {VIP}", "announce",
        ]  # fmt: skip
        assert place.up()
        (place.point / "file").write_text("data")
    wait_for(lambda: not place.holds(), "the address went with the daemon")
    with place.carries("demote") as result:
        assert result["outcome"] == "done"
        assert place.down()
    with place.carries("promote") as result:
        assert result["outcome"] == "done" and (place.point / "file").read_text() == "data"


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="there is no mkfs.xfs")
def test_xfs_too(place: Place) -> None:
    with place.image.open("r+b") as stream:
        stream.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-f", str(place.image)], check=True)
    place.define(file_system="xfs", options=["noatime"])
    with place.carries("promote") as result:
        if "unknown filesystem type" in result["why"]:
            pytest.skip("this kernel has no xfs")
        assert result["outcome"] == "done" and place.up()
    with place.carries("demote") as result:
        assert result["outcome"] == "done" and place.down()


def test_a_unit_that_does_not_start_takes_everything_back(place: Place) -> None:
    place.define(units=["db.service", "broken.service"])
    with place.carries("promote") as result:
        assert (result["outcome"], result["step"]) == ("undone", "unit broken.service")
        assert "control process exited" in result["why"]
        assert place.down()


def test_hooks_run_last_on_the_way_up_and_before_the_units_on_the_way_down(place: Place) -> None:
    hook, said = place.directory / "hook", place.directory / "said"
    look = 'db=no; [ -e "${0%/*}/units/db.service" ] && db=yes'
    hook.write_text(f'#!/bin/sh\n{look}\necho "$* db=$db" >>"${{0%/*}}/said"\n[ ! -e "${{0%/*}}/refuse" ]\n')
    hook.chmod(0o755)
    place.define(hooks={"promoted": str(hook), "demoting": str(hook)})
    with place.life() as life:
        assert life.carry_out("promote")["outcome"] == "done"
        assert life.carry_out("demote")["outcome"] == "done"
        assert said.read_text() == "promoted r0 db=yes\ndemoting r0 db=yes\n"
        (place.directory / "refuse").touch()
        result = life.carry_out("promote")
        assert (result["outcome"], result["step"]) == ("undone", "hook promoted")
        assert "ended with 1" in result["why"] and place.down()


def test_an_address_that_somebody_else_has_is_not_claimed(place: Place) -> None:
    place.neighbour.ip("address", "add", "192.0.2.10/24", "dev", "eth0")
    with place.carries("promote") as result:
        assert (result["outcome"], result["step"]) == ("undone", "probe")
        assert f"by the host with MAC address {mac(place.neighbour)}" in result["why"]
        assert place.down()


@contextlib.contextmanager
def holder(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that says so when it holds what it is to hold."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, **options)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"holding\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def test_who_holds_the_mount_is_named_the_service_comes_back_and_only_leave_to_kill_frees_it(
    place: Place,
) -> None:
    with place.life() as life:
        assert life.carry_out("promote")["outcome"] == "done"
        stubborn = "trap '' TERM; echo holding; read x"
        with holder("sh", "-c", stubborn, cwd=place.point, stdin=subprocess.PIPE) as process:
            result = life.carry_out("demote")
            assert (result["outcome"], result["step"]) == ("undone", "mount")
            assert f"(pid {process.pid})" in result["why"]
            assert place.up() and process.poll() is None
            assert life.carry_out("demote --kill-users")["outcome"] == "done"
            assert place.down() and process.wait(5) == -9


def test_a_mount_in_another_mount_namespace_is_named_and_unmounted_there(place: Place) -> None:
    with place.life() as life:
        assert life.carry_out("promote")["outcome"] == "done"
        script = f"test -e {place.point}/lost+found && echo holding; exec sleep 600"
        private = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
        with holder(*private) as process:
            result = life.carry_out("demote")
            assert (result["outcome"], result["step"]) == ("undone", "mount")
            assert re.search(rf"in the mount namespace of .*\(pid {process.pid}\)", result["why"])
            assert place.up()
            assert life.carry_out("demote --kill-users")["outcome"] == "done"
            assert place.down() and process.poll() is None


def test_a_node_that_must_stop_shuts_the_file_system_under_its_writers(place: Place) -> None:
    with place.carries("promote"):
        pass
    with holder("sh", "-c", "trap '' TERM; exec 3>open; echo holding; read x", cwd=place.point,
                stdin=subprocess.PIPE) as process:  # fmt: skip
        with place.carries("stop") as result:
            assert result["outcome"] == "done" and place.down()
        assert process.wait(5) == -9


def test_a_node_that_has_lost_its_device_still_finds_what_is_mounted_of_it(place: Place) -> None:
    with place.carries("promote"):
        pass
    (place.directory / "lost").touch()
    with place.carries("stop") as result:
        assert result["outcome"] == "done" and not place.mounted() and not place.active()


def test_a_program_that_runs_from_the_mount_and_one_that_maps_a_file_there_are_named(place: Place) -> None:
    with place.life() as life:
        assert life.carry_out("promote")["outcome"] == "done"
        program = place.point / "sleeper"
        shutil.copy("/bin/sleep", program)
        (place.point / "mapped").write_bytes(b"x" * 4096)
        maps = (
            "import mmap, sys; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ);"
            "f.close(); print('holding', flush=True); sys.stdin.read()"
        )
        words = (sys.executable, "-c", maps, str(place.point / "mapped"))
        with (
            holder("sh", "-c", f"echo holding; exec {program} 600") as running,
            holder(*words, stdin=subprocess.PIPE) as mapping,
        ):
            why = life.carry_out("demote")["why"]
            assert f"{program} in use by" in why and f"(pid {running.pid})" in why
            assert f"{place.point}/mapped in use by" in why and f"(pid {mapping.pid})" in why
            assert life.carry_out("demote --kill-users")["outcome"] == "done"


def test_an_unclean_file_system_is_preened_and_a_broken_one_is_left_to_a_person(place: Place) -> None:
    assert place.left_as() is FileSystemState.CLEAN
    place.debugfs("ssv state 2")
    assert place.left_as() is FileSystemState.UNCLEAN
    with place.carries("promote") as result:
        assert result["outcome"] == "done"
    with place.carries("demote"):
        pass
    assert place.left_as() is FileSystemState.CLEAN
    place.debugfs("clri <2>")
    place.debugfs("ssv state 2")
    before = place.image.read_bytes()
    with place.carries("promote") as result:
        assert (result["outcome"], result["step"]) == ("undone", "fsck"), result
        assert "only a person may decide" in result["why"]
        assert place.down()
    # What -y would have thrown away is still there.
    assert place.image.read_bytes()[4096:] == before[4096:]


def test_the_journal_of_a_file_system_that_was_cut_off_is_replayed_by_the_mount(place: Place) -> None:
    with place.carries("promote"):
        (place.point / "file").write_text("data")
        os.sync()
        cut = place.image.read_bytes()
    with place.carries("demote"):
        pass
    place.image.write_bytes(cut)
    assert place.left_as() is FileSystemState.JOURNAL
    with place.carries("promote") as result:
        assert result["outcome"] == "done" and (place.point / "file").read_text() == "data"


def test_something_else_on_the_mount_point_stays_there(place: Place) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place.point)], check=True)
    with place.carries("promote") as result:
        assert (result["outcome"], result["step"]) == ("undone", "mount")
        assert "something else is mounted" in result["why"]
    with place.carries("stop") as result:
        assert result["outcome"] == "done"
    assert place.mounted()


def test_a_promotion_killed_in_the_middle_is_finished_by_the_next_life(place: Place) -> None:
    place.define(units=["slow.service", "db.service"])
    with place.life() as life:
        life.wish("promote")
        wait_for((place.directory / "starting").exists, "the unit is being started", seconds=20)
        life.process.kill()
        life.process.wait()
    assert place.mounted() and not place.holds()
    (place.directory / "quick").touch()
    with place.carries("promote") as result:
        assert result["outcome"] == "done" and place.up() and place.active("slow.service")
    os.kill(int((place.directory / "starting").read_text()), 9)


def test_a_file_system_left_on_an_earlier_device_is_unmounted_and_the_present_one_mounted(
    place: Place,
) -> None:
    with place.carries("promote") as result:
        assert result["outcome"] == "done" and place.up()
    # The role was lost and is back, with another device, and nobody saw it in between.
    earlier = place.image.with_name("earlier.img")
    place.image.rename(earlier)
    shutil.copy(earlier, place.image)
    subprocess.run(["losetup", "--find", str(place.image)], check=True)
    with place.carries("follow") as result:
        assert result["outcome"] == "done" and place.up()
        assert [name for name, _ in result["steps"]][:2] == ["stale unit db.service", "stale mount"]
        (device,) = loops(place.image)
        assert f"{device} {place.point} " in Path("/proc/self/mounts").read_text()
    for line in loops(earlier):
        subprocess.run(["losetup", "--detach", line], check=True)
    with place.carries("demote") as result:
        assert result["outcome"] == "done" and place.down()
