"""Which files some bytes belong to: the tools' answers, and the tools on images of real file systems."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from blockpair.files import tools
from blockpair.files.runner import list_files

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def need(program: str) -> str:
    found = shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def out(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def test_blocks_are_counted_once_and_bounded() -> None:
    assert tools.blocks_of([(4096, 4096), (0, 1)], 1024, 100) == ([0, 4, 5, 6, 7], False)
    assert tools.blocks_of([(0, 1000), (1000, 100)], 1024, 100) == ([0, 1], False)
    assert tools.blocks_of([(0, 4096)], 4096, 1) == ([0], False)
    assert tools.blocks_of([(0, 1 << 50)], 4096, 3) == ([0, 1, 2], True)
    assert tools.blocks_of([(0, 8192), (1 << 20, 4096)], 4096, 2) == ([0, 1], True)
    assert tools.blocks_of([], 4096, 3) == ([], False)
    assert tools.bytes_behind([(0, 8192), (1 << 20, 5000)], [0], 4096) == 4096 + 5000
    assert tools.bytes_behind([(0, 8192), (1 << 20, 5000)], [0, 1], 4096) == 5000


def test_answers_of_debugfs() -> None:
    icheck = "debugfs: icheck 1 9 10\nBlock\tInode number\n1\t<block not found>\n9\t8\n10\t12\n11\t13\n"
    inodes = tools.parse_icheck(icheck)
    assert inodes == {9: 8, 10: 12, 11: 13}
    names = tools.parse_ncheck("Inode\tPathname\n12\t//with space\n12\t/d/link\n13\t/x\n")
    found = tools.ext4_files([1, 9, 10], inodes, names)
    # The journal (inode 8) has no name, and nobody asked for block 11.
    assert found == tools.Files(("/d/link", "/with space"), 2)


def test_answers_of_xfs_db() -> None:
    text = (
        "block 10 (0/10) type data inode 131 a b\nblock 24 (0/24) type free2\nxfs_db> block 0 (0/0) type sb\n"
    )
    assert tools.parse_blockuse(text, 3) == tools.Files(("/a b",), 2)


def test_what_is_no_file_system(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(8192))
    assert "no ext4" in str(list_files(tmp_path / "disk", [(0, 4096)]).problem)
    assert "not there" in str(list_files(tmp_path / "none", [(0, 4096)]).problem)


def test_a_damaged_file_system_has_no_list_rather_than_an_empty_one(tmp_path: Path) -> None:
    need("xfs_db")
    (tmp_path / "disk").write_bytes(b"XFSB" + (4096).to_bytes(4, "big") + bytes(1 << 20))
    found = list_files(tmp_path / "disk", [(0, 4096)])
    assert found.problem is not None and not found.complete


def test_a_real_ext4(tmp_path: Path) -> None:
    source, image = tmp_path / "source", tmp_path / "image"
    (source / "dir").mkdir(parents=True)
    for name in ("dir/changed", "other one"):
        (source / name).write_bytes(b"x" * 20_000)
    out(need("mke2fs"), "-q", "-t", "ext4", "-b", "1024", "-d", str(source), str(image), "8M")
    places = {
        name: [int(n) for n in out(need("debugfs"), "-R", f'blocks "/{name}"', str(image)).split()]
        for name in ("dir/changed", "other one")
    }
    block = places["dir/changed"][3] * 1024
    assert list_files(image, [(block, 1024)]).paths == ("/dir/changed",)
    both = list_files(image, [(block, 1024), (places["other one"][0] * 1024, 1024), (1024, 1024)])
    assert both.paths == ("/dir/changed", "/other one")
    assert (both.file_system, both.other_blocks, both.complete, both.problem) == ("ext4", 1, True, None)


def test_a_real_xfs(tmp_path: Path) -> None:
    content, image, proto = tmp_path / "content", tmp_path / "image", tmp_path / "proto"
    content.write_bytes(b"x" * 20_000)
    proto.write_text(f"/nofile\n0 0\nd--755 0 0\nchanged ---644 0 0 {content}\n$\n")
    with image.open("wb") as stream:
        stream.truncate(320 << 20)
    out(need("mkfs.xfs"), "-q", "-f", "-p", str(proto), str(image))
    inode = int(
        re.findall(r"(\d+)", out(need("xfs_db"), "-r", "-f", "-c", "sb 0", "-c", "p rootino", str(image)))[0]
    )
    text = out(need("xfs_db"), "-r", "-f", "-c", f"inode {inode + 3}", "-c", "bmap", str(image))
    start = int(re.findall(r"startblock (\d+) \(0/", text)[0])
    found = list_files(image, [(start * 4096, 8192), (0, 4096)])
    assert (found.file_system, found.paths, found.other_blocks) == ("xfs", ("/changed",), 1)
