"""A client of an address, which has numbers written by whoever answers there.

number_client ADDRESS PAUSE

Sends a number to port 7000 until it is answered, then the next one, PAUSE seconds later. Tells of each answer
in a line: who gave it, the number, and when on CLOCK_MONOTONIC.
"""

from __future__ import annotations

import socket
import sys
import time


def _main(address: str, pause: float) -> None:
    number = 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.settimeout(0.02)
        while True:
            try:
                port.sendto(str(number).encode(), (address, 7000))
                who, answered = port.recv(32).decode().split()
                while int(answered) != number:
                    who, answered = port.recv(32).decode().split()
            except OSError:
                continue
            print(who, number, time.monotonic(), flush=True)
            number += 1
            time.sleep(pause)


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
