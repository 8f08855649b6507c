"""What a file system's first bytes say of how it was left. Pure."""

from __future__ import annotations

from blockpair.config.service import FileSystem
from blockpair.failover.plan import FileSystemState

SUPERBLOCK_BYTES = 4096

_EXT_AT = 1024
_EXT_MAGIC = 0xEF53
_EXT_VALID, _EXT_ERRORS = 1, 2
_EXT_RECOVER = 0x4
_XFS_MAGIC = b"XFSB"


def state_of(kind: FileSystem, head: bytes) -> FileSystemState:
    """How the ``kind`` that begins with ``head`` (`SUPERBLOCK_BYTES` of it) was left; UNKNOWN if none does.

    ext4: a journal to replay is the mount's business; errors that the kernel noted, or a file system
    without a journal that was not unmounted, are a check's. xfs keeps no such note, and its log is
    replayed by mounting alone.
    """
    if kind == "xfs":
        return FileSystemState.JOURNAL if head.startswith(_XFS_MAGIC) else FileSystemState.UNKNOWN
    block = head[_EXT_AT : _EXT_AT + 1024]
    if len(block) < 1024 or _number(block, 0x38, 2) != _EXT_MAGIC:
        return FileSystemState.UNKNOWN
    state = _number(block, 0x3A, 2)
    if state & _EXT_ERRORS or not state & _EXT_VALID:
        return FileSystemState.UNCLEAN
    return FileSystemState.JOURNAL if _number(block, 0x60, 4) & _EXT_RECOVER else FileSystemState.CLEAN


def is_there(kind: FileSystem, head: bytes) -> bool:
    """Whether a ``kind`` begins with ``head``."""
    return state_of(kind, head) is not FileSystemState.UNKNOWN


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
