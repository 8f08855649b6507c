"""``blockpair-vip-guard``: takes this node's virtual addresses away when the daemon no longer says that it
may have them. A process of its own that outlives a daemon killed in any way.

It is told on standard input, a line each, and answers each with ``ok`` or ``error WHY``:

hold ADDRESS/BITS@INTERFACE    this one goes when the time is up
drop ADDRESS/BITS@INTERFACE    remove it now, and forget it
until SECONDS                  when the time is up, on CLOCK_BOOTTIME

Until then it gives the addresses their next seconds in the kernel, which removes them by itself where no
process runs any more at all.

It removes what it holds and ends when the input ends, when the time is up, and on SIGTERM or SIGINT.

Only a few modules of the standard library are imported, and netlink is spoken by hand: this runs when the
machine is in trouble, and is to be small then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time

LIFETIME_SECONDS = 20
"""What an address has in the kernel, from its claim or its last renewal on."""
# So seldom that whoever watches the machine's addresses is not kept busy.
_RENEWAL_SECONDS = 5.0
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_DUMP = 1, 4, 0x100, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO = 1, 2, 6
# Duplicate address detection would take the address away for a second.
_IFA_F_NODAD = 0x02
# Until it is told another.
_FIRST_DEADLINE = 10.0
_MCL_CURRENT = 1
# A suspended machine's waits stand still: the clock that does not is looked at this often.
_LOOK_SECONDS = 0.25
_LONGEST_SECONDS = 86400.0
_LONGEST_LINE = 256
_MOST_VIPS = 1024

_HELP = """\
Usage: blockpair-vip-guard --list FILE     hold what standard input says (started by blockpaird)
       blockpair-vip-guard --drop PATH     remove the addresses that PATH names, a list or a directory with
                                           NAME.list for each resource (the unit's ExecStopPost)

Removes this node's virtual addresses when the daemon that claimed them is gone.

Example: blockpair-vip-guard --drop /run/blockpair/vips
"""


def parse(text: str) -> tuple[int, bytes, int, str]:
    """Family, address, prefix length and interface of ADDRESS/BITS@INTERFACE. Raises `ValueError`."""
    prefix, separator, interface = text.rpartition("@")
    address, slash, bits = prefix.partition("/")
    if not separator or not slash or not interface or not bits.isdecimal():
        raise ValueError(f"{text!r} is not ADDRESS/BITS@INTERFACE")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except OSError:
        raise ValueError(f"{address!r} is not an address") from None
    if int(bits) > len(packed) * 8:
        raise ValueError(f"{bits} is not a prefix length of {address}")
    return family, packed, int(bits), interface


def remove(text: str) -> None:
    """Remove an address from its interface; not there is fine. Raises `OSError`."""
    found = _on_interface(text)
    if found is None:
        return
    with _netlink() as netlink:
        code = _change(netlink, _RTM_DELADDR, 0, _message(*found))
    if code not in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
        raise OSError(code, os.strerror(code))


def renew(text: str) -> None:
    """Give an address that is there its next seconds; one that is not stays away. Raises `OSError`."""
    found = _on_interface(text)
    if found is None:
        return
    with _netlink() as netlink:
        if not _is_there(netlink, *found):
            return
        lifetime = struct.pack("=HHIIII", 20, _IFA_CACHEINFO, LIFETIME_SECONDS, LIFETIME_SECONDS, 0, 0)
        body = _message(*found) + lifetime
        code = _change(netlink, _RTM_NEWADDR, _NLM_F_REPLACE, body)
    if code:
        raise OSError(code, os.strerror(code))


def _on_interface(text: str) -> tuple[int, bytes, int, int] | None:
    """Family, address, prefix length and the interface's number; None where there is no such interface."""
    family, packed, bits, interface = parse(text)
    try:
        return family, packed, bits, socket.if_nametoindex(interface)
    except OSError:
        return None


def _netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    netlink.settimeout(2.0)
    netlink.bind((0, 0))
    return netlink


def _message(family: int, packed: bytes, bits: int, index: int) -> bytes:
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    attributes = b"".join(
        struct.pack("=HH", 4 + len(packed), kind) + packed for kind in (_IFA_LOCAL, _IFA_ADDRESS)
    )
    return struct.pack("=BBBBI", family, bits, flags, 0, index) + attributes


def _change(netlink: socket.socket, kind: int, flags: int, body: bytes) -> int:
    """The number of the error; 0: done."""
    flags |= _NLM_F_REQUEST | _NLM_F_ACK
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
    answer = netlink.recv(4096)
    if struct.unpack_from("=H", answer, 4)[0] != _NLMSG_ERROR or len(answer) < 20:
        return 0
    return int(-struct.unpack_from("=i", answer, 16)[0])


def _is_there(netlink: socket.socket, family: int, packed: bytes, bits: int, index: int) -> bool:
    body = struct.pack("=BBBBI", family, 0, 0, 0, 0)
    head = struct.pack("=IHHII", 16 + len(body), _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
    netlink.send(head + body)
    found = False
    while True:
        answer, at = netlink.recv(1 << 16), 0
        while at + 16 <= len(answer):
            length, kind = struct.unpack_from("=IH", answer, at)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < 16:
                return found
            found = found or _names(answer[at + 16 : at + length], packed, bits, index)
            at += (length + 3) & ~3


def _names(message: bytes, packed: bytes, bits: int, index: int) -> bool:
    """Whether it is of that address."""
    _, prefix, _, _, interface = struct.unpack_from("=BBBBI", message)
    at = 8
    while (prefix, interface) == (bits, index) and at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if length < 4:
            break
        if kind in (_IFA_ADDRESS, _IFA_LOCAL) and message[at + 4 : at + length] == packed:
            return True
        at += (length + 3) & ~3
    return False


class Guard:
    """What is held, and until when."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._held: dict[str, None] = {}
        self._deadline = _now() + _FIRST_DEADLINE
        self._renewed = _now()

    def left(self) -> float:
        """Seconds until the time is up; it never is while nothing is held."""
        return self._deadline - _now() if self._held else _FIRST_DEADLINE

    def obey(self, line: str) -> str:
        """Carry out a line; what to answer."""
        command, _, argument = line.partition(" ")
        try:
            if command == "hold":
                parse(argument)
                if len(self._held) >= _MOST_VIPS:
                    raise ValueError("too many addresses")
                # What an earlier address was promised is not for this one.
                if not self._held:
                    self._deadline = _now() + _FIRST_DEADLINE
                    # It is claimed next, for its first seconds.
                    self._renewed = _now()
                self._held[argument] = None
                self._keep()
            elif command == "drop":
                remove(argument)
                self._held.pop(argument, None)
                self._keep()
            elif command == "until":
                until = float(argument)
                if not until - _now() <= _LONGEST_SECONDS:
                    raise ValueError(f"{argument} is no time within a day")
                self._deadline = until
            else:
                raise ValueError(f"{command!r} is no command")
        except (OSError, ValueError) as error:
            return f"error {error}"
        return "ok"

    def tend(self) -> None:
        """Renew what is held, where it is time to, and while the time is not up; to be called often."""
        if self.left() > 0 and _now() - self._renewed >= _RENEWAL_SECONDS:
            self._renewed = _now()
            for text in self._held:
                # Without that it goes in a while, and the daemon sees it gone.
                with contextlib.suppress(OSError):
                    renew(text)

    def drop_all(self) -> bool:
        """Remove everything, trying again for a while. Whether all of it is gone."""
        for attempt in range(20):
            if attempt:
                time.sleep(0.05 * attempt)
            for text in list(self._held):
                with contextlib.suppress(OSError):
                    remove(text)
                    del self._held[text]
            if not self._held:
                break
        with contextlib.suppress(OSError):
            self._keep()
        return not self._held

    def _keep(self) -> None:
        """For --drop, where this process too is killed."""
        temporary = f"{self._file}.new"
        with open(temporary, "w", encoding="ascii") as stream:  # noqa: PTH123 - pathlib is not imported here
            stream.write("".join(f"{text}\n" for text in self._held))
        os.rename(temporary, self._file)  # noqa: PTH104


def watch(guard: Guard) -> None:
    """Obey until the input ends or the time is up."""
    buffer = b""
    while (left := guard.left()) > 0:
        guard.tend()
        if not select.select([0], [], [], min(left, _LOOK_SECONDS))[0]:
            continue
        data = os.read(0, 4096)
        if not data:
            return
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > _LONGEST_LINE:
            return
        for line in lines:
            answer = guard.obey(line[:_LONGEST_LINE].decode("ascii", "replace"))
            # Nobody to answer is no reason to die before the addresses are gone.
            with contextlib.suppress(OSError):
                os.write(1, f"{answer}\n".encode())


def drop_listed(file: str) -> int:
    """``--drop``: remove what a guard that was killed left. The exit code."""
    try:
        with open(file, encoding="ascii") as stream:  # noqa: PTH123
            texts = stream.read(_MOST_VIPS * _LONGEST_LINE).split()
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        print(f"blockpair-vip-guard: {file}: {error}", file=sys.stderr)
        return 1
    code = 0
    for text in texts:
        try:
            remove(text)
        except (OSError, ValueError) as error:
            print(f"blockpair-vip-guard: {text}: {error}", file=sys.stderr)
            code = 1
    return code


def _lists(path: str) -> list[str]:
    """The lists at ``path``; in a directory, a resource's each."""
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208 - pathlib is not imported here
    except OSError:
        return [path]
    return [f"{path}/{name}" for name in names if name.endswith(".list")]


def _stay_in_memory() -> None:
    """A page of this program that had to be read again, from a disk that hangs, would hang it. Where that is
    not allowed, it goes without.
    """
    ctypes.CDLL(None).mlockall(_MCL_CURRENT)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit


def main() -> int:
    """The program."""
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        print(_HELP, end="")
        return 0
    if len(arguments) != 2 or arguments[0] not in ("--list", "--drop"):
        print(_HELP, end="", file=sys.stderr)
        return 2
    if arguments[0] == "--drop":
        return max((drop_listed(file) for file in _lists(arguments[1])), default=0)
    # One after the other: the guard of a daemon that was killed has removed its addresses before this one
    # begins.
    lock = os.open(f"{arguments[1]}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    drop_listed(arguments[1])
    _stay_in_memory()
    guard = Guard(arguments[1])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        watch(guard)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        gone = guard.drop_all()
    return 0 if gone else 1


if __name__ == "__main__":
    sys.exit(main())
