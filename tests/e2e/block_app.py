"""An application on a node's disk, run as a unit: what a client sends is on the disk when it is answered.

block_app NAME NBD_SOCKET READY_FILE WRITES_FILE

A datagram to port 7000 is a number; the block of that number is written and flushed, and the answer is NAME
and the number. Of several that wait the last one counts: a client asks again and again for one number, and
then for the next. WRITES_FILE gets a line for each block that the disk has acknowledged: the number, when the
write began and ended on CLOCK_MONOTONIC, and, of the first one, the number that its block held before; "-" of
all others. It ends with the disk.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.nbd_client import NbdClient

BLOCK = 4096
BLOCKS = 3072
"""Of them a number has one, which it shares with those that come so many later."""
PORT = 7000


def content(number: int) -> bytes:
    """Of the block of that number."""
    return number.to_bytes(8, "big") * (BLOCK // 8)


def lost(disk: bytes, numbers: Iterable[int]) -> list[int]:
    """Those that a disk lacks: their block has neither them nor one that came later."""
    found = []
    for number in numbers:
        at = number % BLOCKS * BLOCK
        block = disk[at : at + BLOCK]
        held = int.from_bytes(block[:8], "big")
        if held < number or held % BLOCKS != number % BLOCKS or block != content(held):
            found.append(number)
    return found


def last_question(asked: socket.socket) -> tuple[int, tuple[str, int]]:
    """The last question that waits, and who asked."""
    question, who = asked.recvfrom(16)
    with contextlib.suppress(BlockingIOError):
        while True:
            question, who = asked.recvfrom(16, socket.MSG_DONTWAIT)
    return int(question), who


def _main(name: str, export: Path, ready: Path, writes: Path) -> None:
    with (
        NbdClient(export) as disk,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        writes.open("a", buffering=1) as told,
    ):
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asked.bind(("0.0.0.0", PORT))
        ready.touch()
        first = True
        while select.select([asked, disk.socket], [], [])[0] == [asked]:
            number, who = last_question(asked)
            at = number % BLOCKS * BLOCK
            # What its predecessor, on whichever node, has left. No more than once: a read may have to wait
            # where a write, which must not be acknowledged, would not.
            held = str(int.from_bytes(disk.read(at, BLOCK)[:8], "big")) if first else "-"
            first = False
            began = time.monotonic()
            disk.write(at, content(number))
            disk.flush()
            told.write(f"{number} {began} {time.monotonic()} {held}\n")
            asked.sendto(f"{name} {number}".encode(), who)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
