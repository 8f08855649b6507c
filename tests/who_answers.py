"""Whom an address leads to: a server that says its name, and a client that asks all the time.

python -m tests.who_answers serve NAME | ask ADDRESS SECONDS
"""

from __future__ import annotations

import socket
import sys
import time

_PORT = 7000


def serve(name: str) -> None:
    """Answer every question with ``name`` and the question; says ``serving`` first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("0.0.0.0", _PORT))
        print("serving", flush=True)
        while True:
            question, who = port.recvfrom(16)
            port.sendto(name.encode() + b" " + question, who)


def ask(address: str, patience: float) -> None:
    """Ask every 10 ms, and say who answers whenever that changes, with the seconds since the answer before.
    Answers to earlier questions do not count: many come at once when an address appears.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.settimeout(patience)
        last, heard, number = "", time.monotonic(), 0
        while True:
            number += 1
            try:
                port.sendto(str(number).encode(), (address, _PORT))
                answer = port.recv(32).decode().split()
                while answer[1] != str(number):
                    answer = port.recv(32).decode().split()
            except OSError:
                continue
            now = time.monotonic()
            if answer[0] != last:
                print(answer[0], now - heard, flush=True)
            last, heard = answer[0], now
            time.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ask(sys.argv[2], float(sys.argv[3]))
