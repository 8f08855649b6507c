"""The kernel's nbd driver, over its generic netlink family ``nbd``.

One function a command of ``linux/nbd-netlink.h``; each opens a netlink socket of its own, for they are rare.
The kernel works inside the send: descriptors are looked up in the calling process, and DISCONNECT returns
only after all requests in flight have ended. None of them may be called on a thread that runs an event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

FAMILY = "nbd"

CMD_CONNECT = 1
CMD_DISCONNECT = 2
CMD_RECONFIGURE = 3
CMD_STATUS = 5

# Flags of the NBD protocol's transmission phase, as the kernel's client understands them.
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6  # used since Linux 6.10, ignored before
FLAG_CAN_MULTI_CONN = 1 << 8


class NetlinkError(OSError):
    """The kernel refused a command of the nbd family; ``errno`` is its reason."""


def _explain(code: int, command: str, subject: str) -> NetlinkError:
    reason = {
        errno.ENOENT: "the kernel has no nbd driver; load it: modprobe nbd",
        errno.EPERM: "CAP_SYS_ADMIN is missing; run the daemon as root",
        errno.EBUSY: "the device is in use already",
        errno.EINVAL: "the kernel's log says what it did not like: dmesg | grep nbd",
    }.get(code, os.strerror(code))
    return NetlinkError(code, f"nbd {command} of {subject}: {reason}")


@cache
def _message_classes() -> tuple[Any, Any]:
    # Late and local: importing pyroute2 costs more than a whole 'blockpair status' may.
    from pyroute2.netlink import genlmsg, nla  # type: ignore[import-untyped]
    from pyroute2.netlink.generic import GenericNetlinkSocket  # type: ignore[import-untyped]

    class Sockets(nla):  # type: ignore[misc]
        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc]
            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))

    class Devices(nla):  # type: ignore[misc]
        nla_map = (("NBD_DEVICE_ITEM_UNSPEC", "none"), ("NBD_DEVICE_ITEM", "item"))

        class item(nla):  # type: ignore[misc]
            nla_map = (
                ("NBD_DEVICE_UNSPEC", "none"),
                ("NBD_DEVICE_INDEX", "uint32"),
                ("NBD_DEVICE_CONNECTED", "uint8"),
            )

    class Message(genlmsg):  # type: ignore[misc]
        prefix = "NBD_ATTR_"
        nla_map = (
            ("NBD_ATTR_UNSPEC", "none"),
            ("NBD_ATTR_INDEX", "uint32"),
            ("NBD_ATTR_SIZE_BYTES", "uint64"),
            ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
            ("NBD_ATTR_TIMEOUT", "uint64"),
            ("NBD_ATTR_SERVER_FLAGS", "uint64"),
            ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
            ("NBD_ATTR_SOCKETS", "sockets"),
            ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
            ("NBD_ATTR_DEVICE_LIST", "devices"),
            ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
        )
        sockets = Sockets
        devices = Devices

    return GenericNetlinkSocket, Message


def prepare() -> None:
    """Load now what the first request needs: a tenth of a second and more, which a failover is spared."""
    _message_classes()


def _request(command: int, name: str, subject: str, attributes: list[tuple[str, object]]) -> list[Any]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            f"nbd {name} of {subject}: called on an event loop's thread; use asyncio.to_thread"
        )
    socket_class, message_class = _message_classes()
    from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
    from pyroute2.netlink.exceptions import NetlinkError as KernelError  # type: ignore[import-untyped]

    connection = socket_class()
    # The family's absence is our own message, not one for the library's logger.
    getattr(connection, "asyncore", connection).module_err_level = "debug"
    try:
        connection.bind(FAMILY, message_class)
        message = message_class()
        message["cmd"] = command
        message["version"] = 1
        message["attrs"] = attributes
        return list(
            connection.nlm_request(message, msg_type=connection.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK)
        )
    except KernelError as error:
        raise _explain(error.code, name, subject) from None
    finally:
        connection.close()


def _socket_list(descriptors: Sequence[int]) -> tuple[str, object]:
    items = [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", fd)]}) for fd in descriptors]
    return "NBD_ATTR_SOCKETS", {"attrs": items}


def connect(
    *,
    backend: str,
    block_size: int,
    server_flags: int,
    descriptors: Sequence[int],
    io_timeout_s: int,
    dead_conn_timeout_s: int,
) -> int:
    """Attach a device to connected sockets in the transmission phase; the index the kernel chose for it.

    It has no size before `resize`, so nothing reads it. The kernel keeps its own references: the caller may
    close ``descriptors``. More than one needs `FLAG_CAN_MULTI_CONN`. ``io_timeout_s`` of 0 means that no
    answer is ever too late. Raises `NetlinkError`.
    """
    replies = _request(
        CMD_CONNECT,
        "CONNECT",
        backend,
        [
            ("NBD_ATTR_SIZE_BYTES", 0),
            ("NBD_ATTR_BLOCK_SIZE_BYTES", block_size),
            ("NBD_ATTR_TIMEOUT", io_timeout_s),
            ("NBD_ATTR_DEAD_CONN_TIMEOUT", dead_conn_timeout_s),
            ("NBD_ATTR_SERVER_FLAGS", server_flags),
            ("NBD_ATTR_CLIENT_FLAGS", 0),  # stay when the last user closes it, and when it is disconnected
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
            _socket_list(descriptors),
        ],
    )
    for reply in replies:
        index = reply.get_attr("NBD_ATTR_INDEX")
        if index is not None:
            return int(index)
    raise NetlinkError(errno.EPROTO, f"nbd CONNECT of {backend}: the kernel did not name the device")


def reconfigure(index: int, backend: str, descriptors: Sequence[int]) -> None:
    """Put sockets in the place of dead ones of a live device.

    The kernel fills as many dead places as there are and silently drops the sockets left over: their other
    end then reads an end of file as soon as the caller closes its descriptors. Raises `NetlinkError`.
    """
    _request(
        CMD_RECONFIGURE,
        "RECONFIGURE",
        f"nbd{index}",
        [("NBD_ATTR_INDEX", index), ("NBD_ATTR_BACKEND_IDENTIFIER", backend), _socket_list(descriptors)],
    )


def resize(index: int, backend: str, size_bytes: int) -> None:
    """Give a live device its size. Raises `NetlinkError`."""
    _request(
        CMD_RECONFIGURE,
        "RECONFIGURE",
        f"nbd{index}",
        [
            ("NBD_ATTR_INDEX", index),
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
            ("NBD_ATTR_SIZE_BYTES", size_bytes),
        ],
    )


def disconnect(index: int) -> None:
    """Take a device down at once, whoever uses it: its requests fail from then on. Raises `NetlinkError`."""
    _request(CMD_DISCONNECT, "DISCONNECT", f"nbd{index}", [("NBD_ATTR_INDEX", index)])


def status() -> dict[int, bool]:
    """Whether each device that the driver knows is configured, by index. Raises `NetlinkError`."""
    found = {}
    for reply in _request(CMD_STATUS, "STATUS", "all devices", []):
        devices = reply.get_attr("NBD_ATTR_DEVICE_LIST")
        for item in devices.get_attrs("NBD_DEVICE_ITEM") if devices is not None else ():
            found[int(item.get_attr("NBD_DEVICE_INDEX"))] = bool(item.get_attr("NBD_DEVICE_CONNECTED"))
    return found
