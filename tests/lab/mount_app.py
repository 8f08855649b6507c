"""Runs inside a guest: an application on a mounted file system, and whether what it has written is there.

mount_app serve NAME FILE   a datagram to port 7000 is a number: its block of FILE is written and synced, then
                            answered with NAME and the number; nothing is while FILE is not there
mount_app check FILE COUNT  print how many of the numbers from 1 to COUNT the file lacks
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from tests.e2e.block_app import BLOCK, BLOCKS, PORT, content, last_question, lost


def _serve(name: str, file: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind(("0.0.0.0", PORT))
        print("serving", flush=True)
        while True:
            number, who = last_question(asked)
            try:
                opened = os.open(file, os.O_WRONLY)
            except FileNotFoundError:
                continue
            try:
                os.pwrite(opened, content(number), number % BLOCKS * BLOCK)
                os.fsync(opened)
            finally:
                os.close(opened)
            asked.sendto(f"{name} {number}".encode(), who)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name, file]:
            _serve(name, Path(file))
        case ["check", file, count]:
            print(len(lost(Path(file).read_bytes(), range(1, int(count) + 1))))
        case _:
            sys.exit(__doc__)
