"""Run in a guest: the system's log. Prints what programs log, a line each, and says 'open' first."""

from __future__ import annotations

import socket


def main() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind("/dev/log")
        print("open", flush=True)
        while True:
            print(log.recv(8192).decode(errors="replace").rstrip("\0\n"), flush=True)


if __name__ == "__main__":
    main()
