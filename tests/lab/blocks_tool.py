"""Runs inside a guest: writes blocks that know their own content past the page cache, and checks them later.

``write DEVICE VERSION FIRST END STEP`` writes every STEP-th block of FIRST to END, each on its own and
followed by fsync, and prints ``ok BLOCK`` once it is durable or ``failed BLOCK ERROR``; errors do not end it.
``check DEVICE VERSION BLOCK...`` verifies that these blocks are there in that version, every byte.
A block has 64 KiB.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import sys

BLOCK = 64 << 10


def content(version: int, block: int) -> bytes:
    """What a block contains in a version."""
    return random.Random(f"{version}/{block}").randbytes(BLOCK)


def write(device: str, version: int, blocks: range) -> None:
    """Write the blocks; one line each on standard output."""
    file = os.open(device, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, BLOCK) as buffer:  # O_DIRECT wants aligned memory
        for block in blocks:
            buffer[:] = content(version, block)
            try:
                if os.pwrite(file, buffer, block * BLOCK) != BLOCK:
                    sys.exit(f"{device} block {block}: a short write")
                os.fsync(file)
            except OSError as error:
                print("failed", block, errno.errorcode[error.errno or 0], flush=True)
            else:
                print("ok", block, flush=True)


def check(device: str, version: int, blocks: list[int]) -> None:
    """Exit with a message that names the blocks that are not as they were written."""
    file = os.open(device, os.O_RDONLY | os.O_DIRECT)
    wrong = []
    with mmap.mmap(-1, BLOCK) as buffer:
        for block in blocks:
            got = os.preadv(file, [buffer], block * BLOCK)
            if got != BLOCK or buffer[:] != content(version, block):
                wrong.append(block)
    if wrong:
        sys.exit(f"{device}: not version {version}: blocks {wrong} of {blocks}")
    print(f"{len(blocks)} blocks are right")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", where, number, first, end, step]:
            write(where, int(number), range(int(first), int(end), int(step)))
        case ["check", where, number, *which]:
            check(where, int(number), [int(block) for block in which])
        case _:
            sys.exit(__doc__)
