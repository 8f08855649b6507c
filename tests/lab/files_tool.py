"""Runs inside a guest: writes files that know their own content, and checks them later, maybe elsewhere.

``write DIR PAUSE`` makes DIR/0, DIR/1 ... without end, resting PAUSE seconds after each, and prints a number
once that file is durable, content and name, and when that was, in seconds on the guest's clock. Standard
output is a file of the host: it outlives the guest.
``check DIR COUNT`` verifies that the first COUNT files are there, every byte.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

_SIZES = (1, 4096, 5000, 65536, 20000)


def content(folder: str, number: int) -> bytes:
    """What file ``number`` of a folder of that name contains."""
    return random.Random(f"{folder}/{number}").randbytes(_SIZES[number % len(_SIZES)])


def write(folder: Path, pause_s: float) -> None:
    """Write files for ever, each durable before its number is printed."""
    folder.mkdir()
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    number = 0
    while True:
        file = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        data = content(folder.name, number)
        if os.write(file, data) != len(data):
            sys.exit(f"{folder}/{number}: a short write")
        os.fsync(file)
        os.close(file)
        os.fsync(directory)
        print(number, f"{time.monotonic():.3f}", flush=True)
        number += 1
        time.sleep(pause_s)


def check(folder: Path, count: int) -> None:
    """Exit with a message at the first file that is not as it was written."""
    for number in range(count):
        path = folder / str(number)
        try:
            found = path.read_bytes()
        except OSError as error:
            sys.exit(f"{path} of {count}: {error.strerror}")
        wanted = content(folder.name, number)
        if found != wanted:
            first = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
            sizes = f"{len(found)} bytes, {len(wanted)} wanted"
            sys.exit(f"{path} of {count}: {sizes}; first wrong byte: {first}")
    print(f"{count} files are right")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", where, pause]:
            write(Path(where), float(pause))
        case ["check", where, number]:
            check(Path(where), int(number))
        case _:
            sys.exit(__doc__)
