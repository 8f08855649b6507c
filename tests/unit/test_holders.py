"""Who holds a block device: the tables of the kernel, and the stat fields of open files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from blockpair.kernel_device.holders import (
    Holder,
    Mount,
    Use,
    holders,
    mounts_of,
    parse_maps,
    parse_mountinfo,
    parse_swaps,
    unescape,
    use_of,
)

MOUNTINFO = r"""22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
90 28 43:16 /sub /srv/my\040data rw,relatime shared:50 master:3 - ext4 /dev/nbd1 rw,errors=remount-ro
91 28 0:47 / /srv/wide rw,relatime - btrfs /dev/nbd2p1 rw,space_cache=v2
92 28 0:48 / /proc\134x rw - tmpfs tmp\011fs rw
"""


def test_mountinfo_with_and_without_optional_fields_and_with_escapes() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert len(mounts) == 5
    assert mounts[2] == Mount((43, 16), "/srv/my data", "/dev/nbd1")
    assert mounts[3] == Mount((0, 47), "/srv/wide", "/dev/nbd2p1")
    assert mounts[4] == Mount((0, 48), "/proc\\x", "tmp\tfs")


@pytest.mark.parametrize(
    "line", ["", "garbage", "1 2 x:y / /a rw - ext4 /dev/a rw", "1 2 3:4 / /a rw", "1 2 3:4 - a"]
)
def test_mountinfo_lines_of_another_form_are_left_out(line: str) -> None:
    assert parse_mountinfo(line + "\n" + MOUNTINFO) == parse_mountinfo(MOUNTINFO)


def test_mounts_are_found_by_number_and_by_source() -> None:
    numbers = {"/dev/nbd1": (43, 16), "/dev/nbd2p1": (43, 33), "/dev/vda": (254, 0)}
    mounts = parse_mountinfo(MOUNTINFO)
    assert [m.point for m in mounts_of(mounts, {(43, 16)}, numbers.get)] == ["/srv/my data"]
    assert [m.point for m in mounts_of(mounts, {(43, 32), (43, 33)}, numbers.get)] == ["/srv/wide"]
    assert mounts_of(mounts, {(43, 48)}, numbers.get) == []


def test_swaps() -> None:
    text = (
        "Filename\tType\tSize\tUsed\tPriority\n/dev/nbd1p2 partition\t1024\t0\t-2\n/my\\040swap file 1 0 -3\n"
    )
    assert parse_swaps(text) == ["/dev/nbd1p2", "/my swap"]
    assert parse_swaps("Filename\tType\tSize\tUsed\tPriority\n") == []


def test_unescape_leaves_other_backslashes() -> None:
    assert unescape(r"a\040b\012c\x\99") == "a b\nc\\x\\99"


def test_open_device_open_file_and_neither() -> None:
    devices, file_systems = {(43, 16)}, {(43, 16), (0, 47)}

    def use(mode: int, rdev: tuple[int, int], dev: tuple[int, int]) -> Use | None:
        return use_of(mode, rdev, dev, devices=devices, file_systems=file_systems)

    assert use(stat.S_IFBLK | 0o660, (43, 16), (0, 5)) is Use.OPEN
    assert use(stat.S_IFBLK | 0o660, (43, 32), (0, 5)) is None
    # A character device may have the same numbers, and a device node may lie on the file system in question.
    assert use(stat.S_IFCHR | 0o660, (43, 16), (0, 5)) is None
    assert use(stat.S_IFBLK | 0o660, (8, 0), (43, 16)) is None
    assert use(stat.S_IFREG | 0o644, (0, 0), (43, 16)) is Use.FILE
    assert use(stat.S_IFDIR | 0o755, (0, 0), (0, 47)) is Use.FILE
    assert use(stat.S_IFREG | 0o644, (0, 0), (254, 0)) is None


def test_a_holder_says_who_and_where() -> None:
    assert str(Holder(Use.MOUNT, "/srv")) == "mounted on /srv"
    assert (
        str(Holder(Use.MOUNT, "/srv", 7, "pause"))
        == "mounted on /srv, in the mount namespace of pause (pid 7)"
    )
    assert str(Holder(Use.OPEN, "/dev/nbd1", 8, "dd of=x")) == "held open by dd of=x (pid 8) as /dev/nbd1"
    assert str(Holder(Use.FILE, "/srv/log", 9, "tail -f log")) == "/srv/log in use by tail -f log (pid 9)"
    assert str(Holder(Use.DEVICE, "/dev/mapper/vg-data")) == "part of /dev/mapper/vg-data"
    assert str(Holder(Use.SWAP, "/dev/nbd1")) == "used as swap (/dev/nbd1)"


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="not a block device"):
        holders(file)
    with pytest.raises(FileNotFoundError):
        holders(tmp_path / "absent")


def test_maps_show_the_files_of_a_file_system() -> None:
    text = (
        "7f1c5a000000-7f1c5a021000 rw-p 00000000 00:00 0 \n"
        "7f1c5e5d2000-7f1c5e5d3000 r--s 00000000 2b:10 13                         /srv/my data/file\n"
        "7f1c5e5d4000-7f1c5e5d5000 r-xp 00001000 2b:10 13                         /srv/my data/file\n"
        "7ffd1b7e8000-7ffd1b809000 rw-p 00000000 00:00 0                          [stack]\n"
        "garbage\n"
    )
    assert parse_maps(text) == [((43, 16), "/srv/my data/file")]
