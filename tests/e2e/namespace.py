"""A network namespace with nothing but its own loopback, whose counters therefore count our daemons alone.

Two of them can be joined by cables.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path


class Namespace:
    """Lives as long as the process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for who holds it.
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            self.close()
            raise OSError("a network namespace cannot be made")

    @staticmethod
    def possible() -> bool:
        """Whether this process may make one."""
        return os.geteuid() == 0 and all(shutil.which(name) for name in ("unshare", "nsenter", "ip"))

    @property
    def prefix(self) -> tuple[str, ...]:
        """Runs a command in it."""
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")

    def bytes_sent(self) -> int:
        """What its loopback has carried, headers included."""
        for line in Path(f"/proc/{self._holder.pid}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == "lo":
                return int(counters.split()[8])
        raise OSError("the namespace has no loopback")

    def has_address(self, address: str) -> bool:
        """Whether this IPv4 address is one of its own; a look at a file, for who looks often."""
        tree = Path(f"/proc/{self._holder.pid}/net/fib_trie").read_text()
        return re.search(rf"-- {re.escape(address)}\n\s+/32 host LOCAL", tree) is not None

    def processes(self) -> list[int]:
        """All in it, but for the one that keeps it."""
        own = Path(f"/proc/{self._holder.pid}/ns/net")
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if own.samefile(folder / "ns/net"):
                    found.append(int(folder.name))
        return [pid for pid in found if pid != self._holder.pid]

    def ip(self, *words: str) -> None:
        """Run ``ip`` in it. Raises `OSError` with what it says."""
        done = subprocess.run([*self.prefix, "ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def cable(self, other: Namespace, name: str, ours: str, theirs: str) -> None:
        """Join both by a pair of interfaces, ``name`` on either side, with these addresses (ADDRESS/BITS)."""
        holder = str(other._holder.pid)
        self.ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", holder)
        for end, address in ((self, ours), (other, theirs)):
            end.ip("address", "add", address, "dev", name)
            end.ip("link", "set", name, "up")

    def plug(self, switch: Namespace, port: str, *addresses: str) -> None:
        """Give it the interface eth0 with these addresses, on a bridge in ``switch``, which it makes if
        need be.
        """
        if not switch.shows("link", "br0"):
            switch.ip("link", "add", "br0", "type", "bridge")
            switch.ip("link", "set", "br0", "up")
        holder = str(self._holder.pid)
        switch.ip("link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", holder)
        switch.ip("link", "set", "dev", port, "master", "br0", "up")
        for address in addresses:
            self.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self.ip("link", "set", "eth0", "up")
        # Inherited from the machine; a host that forwards answers for addresses that have moved away.
        self.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")

    def run(self, *words: str) -> str:
        """Run a command in it; what it printed. Raises `OSError` with what it says."""
        done = subprocess.run([*self.prefix, *words], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def shows(self, what: str, name: str) -> str:
        """What ``ip WHAT show dev NAME`` prints; empty where there is none."""
        try:
            return self.run("ip", "-o", what, "show", "dev", name)
        except OSError:
            return ""

    def close(self) -> None:
        """End it; it goes with the last process in it."""
        self._holder.kill()
        self._holder.wait()
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe is not None:
                pipe.close()
