"""Telling systemd how the daemon does (sd_notify's protocol)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence

# systemd passes descriptors from here on (sd_listen_fds).
_FIRST_PASSED = 3


def notify(message: str, descriptors: Sequence[int] = ()) -> None:
    """Send ``READY=1`` or the like, with descriptors to keep, to the service manager, where there is one; it
    never fails the daemon.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address)
        socket.send_fds(connection, [message.encode()], list(descriptors))


def sign_of_life_seconds() -> float | None:
    """How often to say ``WATCHDOG=1``: twice as often as the service manager asks (sd_watchdog_enabled(3)).
    None where it does not ask this process.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    asked = os.environ.get("WATCHDOG_USEC", "")
    return int(asked) / 2e6 if asked.isdecimal() and int(asked) > 0 else None


async def give_signs_of_life() -> None:
    """Say that the event loop turns, as often as the service manager asks, until cancelled."""
    seconds = sign_of_life_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)


def kept_descriptors(name: str) -> list[int]:
    """What an earlier process of this service gave to be kept under ``name``; now this process's own."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = [_FIRST_PASSED + index for index, kept in enumerate(names) if kept == name]
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return found
