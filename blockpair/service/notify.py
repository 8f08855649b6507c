"""Telling systemd how the daemon does (sd_notify's protocol)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Send ``READY=1`` or the like to the service manager, where there is one; it never fails the daemon."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.sendto(message.encode(), address)
