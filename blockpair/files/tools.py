"""What is asked of debugfs and xfs_db, and what their answers mean. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# debugfs reads lines of 8 KiB at most; xfs_db answers a block a command.
_BLOCKS_A_LINE = 256
_XFS_SECTOR = 512
_OWNED = re.compile(r"block \d+ \(\d+/\d+\) type (\S+)(?: inode (\d+)(?: (.*))?)?$")


@dataclass(frozen=True)
class FileSystem:
    """``kind``: ext4 (or its elders) or xfs; ``block_size`` in bytes."""

    kind: str
    block_size: int


@dataclass(frozen=True)
class Files:
    """``paths`` from the root of the file system; ``other_blocks``: asked for, but of no named file: its own
    metadata, its journal, deleted files, free space.
    """

    paths: tuple[str, ...]
    other_blocks: int


def file_system(start: bytes) -> FileSystem | None:
    """The file system whose device begins with ``start``, 2 KiB or more; None: none that is understood."""
    if start[:4] == b"XFSB":
        size = int.from_bytes(start[4:8], "big")
        known = FileSystem("xfs", size)
    elif start[1024 + 56 : 1024 + 58] == b"\x53\xef":
        shift = int.from_bytes(start[1024 + 24 : 1024 + 28], "little")
        known = FileSystem("ext4", 1024 << min(shift, 32))
    else:
        return None
    return known if 512 <= known.block_size <= 1 << 16 else None


def blocks_of(ranges: Iterable[tuple[int, int]], block_size: int, most: int) -> tuple[list[int], bool]:
    """The file system's blocks that ``ranges`` (offset and length in bytes) touch, in rising order, at most
    ``most``; and whether there are more.
    """
    found: list[int] = []
    for offset, length in sorted(ranges):
        first = offset // block_size
        if found and first <= found[-1]:
            first = found[-1] + 1
        end = -(-(offset + length) // block_size)
        found.extend(range(first, min(end, first + most - len(found))))
        if first + most < end or (len(found) == most and found[-1] + 1 < end):
            return found, True
    return found, False


def bytes_behind(ranges: Iterable[tuple[int, int]], blocks: Sequence[int], block_size: int) -> int:
    """Bytes of ``ranges`` behind the last of ``blocks``, which are the first ones that they touch."""
    end = (blocks[-1] + 1) * block_size
    return sum(max(0, offset + length - max(offset, end)) for offset, length in ranges)


def icheck_script(blocks: Sequence[int]) -> str:
    """debugfs commands that ask for the inodes of ``blocks``."""
    lines = (blocks[at : at + _BLOCKS_A_LINE] for at in range(0, len(blocks), _BLOCKS_A_LINE))
    return "".join(f"icheck {' '.join(map(str, line))}\n" for line in lines)


def parse_icheck(text: str) -> dict[int, int]:
    """Inode by block, from debugfs; blocks of no inode are left out."""
    return {int(block): int(inode) for block, inode in re.findall(r"^(\d+)\t(\d+)$", text, re.MULTILINE)}


def ncheck_script(inodes: Iterable[int]) -> str:
    """debugfs commands that ask for the names of ``inodes``."""
    wanted = sorted(inodes)
    lines = (wanted[at : at + _BLOCKS_A_LINE] for at in range(0, len(wanted), _BLOCKS_A_LINE))
    return "".join(f"ncheck {' '.join(map(str, line))}\n" for line in lines)


def parse_ncheck(text: str) -> dict[int, list[str]]:
    """Paths by inode, from debugfs; a file with several names has several."""
    found: dict[int, list[str]] = {}
    for inode, path in re.findall(r"^(\d+)\t(/.*)$", text, re.MULTILINE):
        found.setdefault(int(inode), []).append("/" + path.lstrip("/"))
    return found


def ext4_files(blocks: Sequence[int], inodes: dict[int, int], names: dict[int, list[str]]) -> Files:
    """What debugfs' answers say of ``blocks``."""
    named = {block for block in blocks if names.get(inodes.get(block, 0))}
    paths = {path for block in named for path in names[inodes[block]]}
    return Files(tuple(sorted(paths)), len(blocks) - len(named))


def xfs_script(blocks: Iterable[int], block_size: int) -> str:
    """xfs_db commands that ask for the owners of ``blocks``, counted from the device's start."""
    sectors = block_size // _XFS_SECTOR
    return "blockget -n\n" + "".join(f"daddr {block * sectors}\nblockuse -n\n" for block in blocks)


def parse_blockuse(text: str, asked: int) -> Files:
    """What xfs_db's answers say of ``asked`` blocks."""
    paths, named = set(), 0
    for line in text.splitlines():
        owned = _OWNED.search(line)
        if owned is not None and owned[1] in ("data", "dir") and owned[3]:
            named += 1
            paths.add("/" + owned[3].lstrip("/"))
    return Files(tuple(sorted(paths)), max(0, asked - named))
