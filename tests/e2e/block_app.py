"""An application on a node's disk, run as a unit: what a client sends is on the disk when it is answered.

block_app NAME NBD_SOCKET READY_FILE

A datagram to port 7000 is a number; the block of that number is written and flushed, and the answer is NAME
and the number. It ends with the disk.
"""

from __future__ import annotations

import select
import socket
import sys
from pathlib import Path

from tests.e2e.nbd_client import NbdClient

BLOCK = 4096
PORT = 7000


def content(number: int) -> bytes:
    """Of the block of that number."""
    return number.to_bytes(8, "big") * (BLOCK // 8)


def _main(name: str, export: Path, ready: Path) -> None:
    with NbdClient(export) as disk, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asked.bind(("0.0.0.0", PORT))
        ready.touch()
        while select.select([asked, disk.socket], [], [])[0] == [asked]:
            question, who = asked.recvfrom(16)
            number = int(question)
            disk.write(number * BLOCK, content(number))
            disk.flush()
            asked.sendto(f"{name} {number}".encode(), who)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
