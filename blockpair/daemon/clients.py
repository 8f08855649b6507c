"""Who is connected to a resource's export, in words."""

from __future__ import annotations

import psutil

from blockpair.status.engine import NbdClient


def describe(client: NbdClient) -> str:
    """Command and pid of a client of the Unix socket."""
    if client.pid is None:
        return "a client whose process is not known"
    try:
        process = psutil.Process(client.pid)
        command = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        command = "a program that has just ended"
    return f"{command[:120]} (pid {client.pid})"
