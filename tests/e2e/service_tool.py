"""A node that runs a service on a file system in a file, from the command line of a test.

service_tool DIRECTORY

Runs in a network namespace, as root. DIRECTORY holds disk.img, and keeps what a daemon would: the role,
the journal. The device is a loop device, attached while the role is Primary. A line of input is a wish,
"--kill-users" after it or not; its result is printed as JSON. An unfinished run of an earlier life is
finished first.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from blockpair.config.service import ServiceTable, service_config
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.executor import Executor
from blockpair.failover.journal import Journal
from blockpair.failover.machine import Machine
from blockpair.failover.plan import Role, Watchdog, Wish


def loops(image: Path, *, ending: bool = False) -> list[Path]:
    """The loop devices of a file; those that were detached and wait for somebody who still looks into them
    only where ``ending`` is.
    """
    words = ["losetup", "--noheadings", "--output", "NAME,AUTOCLEAR", "--associated", str(image)]
    done = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name, autoclear in map(str.split, done.splitlines()) if ending or autoclear == "0"]


@dataclass
class LoopReplica:
    """A resource whose device is a file: Primary means attached. It has lost it where a file "lost" is."""

    directory: Path

    async def role(self) -> Role:
        return Role.PRIMARY if await self.device() else Role.SECONDARY

    async def has_epoch(self) -> bool:
        return True

    async def watchdog(self) -> Watchdog:
        return Watchdog.NONE

    async def device(self) -> Path | None:
        if (self.directory / "lost").exists():
            return None
        devices = loops(self._image)
        return devices[0] if devices else None

    async def take_epoch(self) -> None:
        """There is nobody to ask."""

    async def give_epoch(self) -> None:
        """There is nobody to tell."""

    async def promote(self) -> None:
        if await self.device() is None:
            _forget_what_was_read(self._losetup("--find", "--show", str(self._image)).strip())

    async def demote(self) -> None:
        device = await self.device()
        if device is not None:
            if _is_mounted(device):
                raise BlockpairError(ErrorKind.IN_USE, f"{device} is mounted")
            self._losetup("--detach", str(device))

    async def arm_watchdog(self, armed: bool) -> None:
        raise NotImplementedError

    async def fail_io(self) -> None:
        raise BlockpairError(ErrorKind.FAILED, "a loop device cannot be told to fail")

    async def fence_self(self) -> None:
        raise NotImplementedError

    async def addresses_until(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + 30.0

    @property
    def _image(self) -> Path:
        return self.directory / "disk.img"

    @staticmethod
    def _losetup(*words: str) -> str:
        return subprocess.run(["losetup", *words], check=True, capture_output=True, text=True).stdout


def _forget_what_was_read(device: str) -> None:
    # Whoever still looks into the loop device keeps in memory what its last file held.
    subprocess.run(["blockdev", "--flushbufs", device], check=True)


def _is_mounted(device: Path) -> bool:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.startswith(f"{device} ") for line in lines)


async def _main(directory: Path) -> None:
    table = msgspec.json.decode((directory / "service.json").read_bytes(), type=ServiceTable)
    service = service_config(table, directory / "service.json")
    machine = Machine(
        "r0",
        service,
        LoopReplica(directory),
        guard_file=directory / "vips",
        device_file=directory / "device",
        problem=print,
    )
    executor = Executor(service, machine, Journal(directory / "journal"))
    await executor.resume()
    await machine.warm_up()
    # The addresses are here for as long as this process is.
    while line := await asyncio.to_thread(sys.stdin.readline):
        wish, *options = line.split()
        result = await executor.run(Wish(wish), kill_users="--kill-users" in options)
        told = {
            "outcome": result.outcome,
            "step": result.step,
            "why": result.why,
            "steps": [[event.step, event.seconds] for event in result.steps],
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
