"""Runs inside a guest: serves a disk to the kernel's nbd client, and calls `blockpair.kernel_device`.

A complete server of NBD's transmission phase for one backing, a thread a connection, in order. It is small on
purpose: the lab tests the kernel's side with it, without the product's own server in the way.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from blockpair.kernel_device import device as kernel_device
from blockpair.kernel_device import memory, netlink
from blockpair.kernel_device.holders import holders

_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_READ, _WRITE, _DISC, _FLUSH, _TRIM = range(5)
_FUA = 1
_EINVAL = 22
_LARGEST = 32 << 20
_FLAGS = (
    netlink.FLAG_HAS_FLAGS | netlink.FLAG_SEND_FLUSH | netlink.FLAG_SEND_FUA | netlink.FLAG_CAN_MULTI_CONN
)


def _receive(connection: socket.socket, length: int) -> bytearray | None:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return data


def serve(connection: socket.socket, backing: int, answer_allowed: Callable[[], None]) -> None:
    """Serve one connection until the client disconnects or its end closes."""
    while header := _receive(connection, _REQUEST.size):
        magic, flags, kind, cookie, offset, length = _REQUEST.unpack(header)
        if magic != _REQUEST_MAGIC or length > _LARGEST or kind == _DISC:
            return
        error, payload = 0, b""
        if kind == _READ:
            payload = os.pread(backing, length, offset)
        elif kind == _WRITE:
            data = _receive(connection, length)
            if data is None:
                return
            os.pwrite(backing, data, offset)
        elif kind != _FLUSH:
            error = _EINVAL
        if kind == _FLUSH or flags & _FUA:
            os.fsync(backing)
        answer_allowed()
        connection.sendall(_REPLY.pack(_REPLY_MAGIC, error, cookie) + payload)


def _serve_all(arguments: argparse.Namespace) -> None:
    backing = os.open(arguments.backing, os.O_RDWR)
    size = os.lseek(backing, 0, os.SEEK_END)
    protection = memory.Protection()
    protection.hold()
    if arguments.reattach:
        live = kernel_device.find(arguments.identity)
        if live is None:
            sys.exit(f"no device of {arguments.identity}")
        attachment = kernel_device.reattach(live, deadline_s=arguments.deadline)
    else:
        attachment = kernel_device.attach(
            arguments.identity,
            flags=_FLAGS,
            connections=arguments.connections,
            dead_conn_timeout_s=60,
            io_timeout_s=arguments.io_timeout,
        )

    def answer_allowed() -> None:
        while arguments.stall is not None and arguments.stall.exists():
            time.sleep(0.05)

    threads = [
        threading.Thread(target=serve, args=(end, backing, answer_allowed)) for end in attachment.sockets
    ]
    for thread in threads:
        thread.start()
    kernel_device.publish(attachment.device, Path("/dev/blockpair"), "r0")
    kernel_device.open_up(attachment.device, size, retry_s=None if arguments.io_timeout else 1)
    kernel_device.announce(attachment.device)
    print(f"serving {attachment.device.path} over {len(threads)}", flush=True)
    for thread in threads:
        thread.join()
    protection.release()
    print("disconnected", flush=True)


def _detach(arguments: argparse.Namespace) -> None:
    live = kernel_device.find(arguments.identity)
    if live is None:
        sys.exit(f"no device of {arguments.identity}")
    try:
        kernel_device.detach(live, force=arguments.force, grace_s=0.5)
    except kernel_device.DeviceInUse as error:
        print(json.dumps([{**dataclasses.asdict(user), "use": user.use.value} for user in error.holders]))
        print(error, file=sys.stderr)
        sys.exit(3)
    kernel_device.withdraw(live, Path("/dev/blockpair"), "r0")


def _holders(arguments: argparse.Namespace) -> None:
    found = holders(Path(arguments.path))
    print(json.dumps([{**dataclasses.asdict(user), "use": user.use.value} for user in found]))


def _write_forever(arguments: argparse.Namespace) -> None:
    """Append records of 4 KiB, each durable before it is counted."""
    with Path(arguments.path).open("ab", buffering=0) as file:
        number = 0
        while True:
            file.write(number.to_bytes(8, "big") * 512)
            os.fsync(file.fileno())
            number += 1
            print(number, flush=True)


def _protect(_arguments: argparse.Namespace) -> None:
    """Print what a protected process looks like, in a thread made before, one made after, and afterwards."""
    seen: dict[str, object] = {}
    go = threading.Event()

    def early() -> None:
        go.wait(10)
        seen["early"] = memory.thread_is_marked()

    def late() -> None:
        seen["late"] = memory.thread_is_marked()

    def locked() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmLck:")[1].split()[0])

    first = threading.Thread(target=early)
    first.start()
    protection = memory.Protection()
    seen["before"] = (memory.thread_is_marked(), locked())
    protection.hold()
    protection.hold()
    protection.release()
    second = threading.Thread(target=late)
    second.start()
    second.join()
    go.set()
    first.join()
    seen["held"] = (memory.thread_is_marked(), locked())
    protection.release()
    seen["released"] = (memory.thread_is_marked(), locked())
    print(json.dumps(seen))


def _status(_arguments: argparse.Namespace) -> None:
    print(json.dumps(netlink.status()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("serve")
    command.add_argument("identity")
    command.add_argument("backing")
    command.add_argument("--connections", type=int, default=1)
    command.add_argument("--io-timeout", type=int, default=0)
    command.add_argument("--reattach", action="store_true")
    command.add_argument("--deadline", type=float, default=10)
    command.add_argument("--stall", type=Path, help="answer nothing while this file is there")
    command.set_defaults(run=_serve_all)
    command = commands.add_parser("detach")
    command.add_argument("identity")
    command.add_argument("--force", action="store_true")
    command.set_defaults(run=_detach)
    command = commands.add_parser("holders")
    command.add_argument("path")
    command.set_defaults(run=_holders)
    command = commands.add_parser("write")
    command.add_argument("path")
    command.set_defaults(run=_write_forever)
    commands.add_parser("protect").set_defaults(run=_protect)
    commands.add_parser("status").set_defaults(run=_status)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
