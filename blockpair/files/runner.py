"""Runs debugfs or xfs_db, read-only, on a backing device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from blockpair.files import tools
from blockpair.status.loss import FileList

# xfs_db starts once, debugfs looks at all inodes once a few hundred blocks.
_MOST_BLOCKS = 4096
_MOST_PATHS = 1000
_SECONDS = 60.0
# xfs_db keeps a map of the whole file system in memory, and this machine has data to serve.
_MEMORY_BYTES = 2 << 30
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def list_files(device: Path, ranges: Sequence[tuple[int, int]]) -> FileList:
    """The files that ``ranges`` (offset and length in bytes) of ``device`` belong to. What the application
    wrote a moment ago may be missing: the file system is read as it is on the disk. Never raises for what it
    finds. May take minutes.
    """
    kind: str | None = None
    try:
        with device.open("rb") as stream:
            known = tools.file_system(stream.read(4096))
        if known is None:
            return FileList(problem="no ext4 or xfs file system begins there")
        kind = known.kind
        blocks, more = tools.blocks_of(ranges, known.block_size, _MOST_BLOCKS)
        found = _ext4(device, blocks) if kind == "ext4" else _xfs(device, blocks, known.block_size)
    except FileNotFoundError as error:
        return FileList(problem=f"{error.filename} is not there")
    except subprocess.CalledProcessError as error:
        return FileList(kind, complete=False, problem=f"{error.cmd[2]} failed, or needs too much memory")
    except subprocess.TimeoutExpired:
        return FileList(kind, complete=False, problem=f"it took more than {_SECONDS:g} s")
    except OSError as error:
        return FileList(problem=f"{device} cannot be read: {error.strerror}")
    return FileList(
        kind,
        found.paths[:_MOST_PATHS],
        found.other_blocks,
        complete=not more and len(found.paths) <= _MOST_PATHS,
        unseen_bytes=tools.bytes_behind(ranges, blocks, known.block_size) if more else 0,
    )


def _ext4(device: Path, blocks: Sequence[int]) -> tools.Files:
    arguments = ["debugfs", "-f", "-", str(device)]
    inodes = tools.parse_icheck(_run(arguments, tools.icheck_script(blocks)))
    wanted = set(inodes.values())
    names = tools.parse_ncheck(_run(arguments, tools.ncheck_script(wanted))) if wanted else {}
    return tools.ext4_files(blocks, inodes, names)


def _xfs(device: Path, blocks: Sequence[int], block_size: int) -> tools.Files:
    arguments = ["xfs_db", "-r", *(["-f"] if device.is_file() else []), str(device)]
    return tools.parse_blockuse(_run(arguments, tools.xfs_script(blocks, block_size)), len(blocks))


def _run(arguments: list[str], script: str) -> str:
    """A tool's standard output. Raises `FileNotFoundError` that names a tool that is not installed."""
    for needed in (arguments[0], "prlimit"):
        if shutil.which(needed, path=_PATH) is None:
            raise FileNotFoundError(2, "No such file", needed)
    done = subprocess.run(
        ["prlimit", f"--as={_MEMORY_BYTES}", *arguments],
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="backslashreplace",
        timeout=_SECONDS,
        check=True,
        env={"PATH": _PATH, "LC_ALL": "C", "HOME": os.devnull},
    )
    return done.stdout
