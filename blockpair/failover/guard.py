"""The daemon's end of ``blockpair-vip-guard``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

from blockpair import vip_guard
from blockpair.config.service import Vip
from blockpair.errors import BlockpairError, ErrorKind

_ANSWER_SECONDS = 5.0
# One that hangs is killed then, and the kernel given a moment to bury it.
_END_SECONDS, _BURY_SECONDS = 1.0, 1.0


class VipGuard:
    """The guard's process. Whoever holds this one's end of the pipe keeps the addresses alive; it is not
    handed to other programs.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, file: Path) -> VipGuard:
        """Start it; ``file`` is where it keeps the list of what it holds. Raises `OSError`."""
        # A session of its own: a signal to the daemon's process group is not for it.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", vip_guard.__file__, "--list", str(file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone: its time was up, or it was killed."""
        return self._process.returncode is not None

    async def hold(self, vip: Vip) -> None:
        """From now on it removes the address when the daemon is silent; before the address is claimed."""
        await self._say(f"hold {vip}")

    async def drop(self, vip: Vip) -> None:
        """It removes the address now, and forgets it."""
        await self._say(f"drop {vip}")

    async def until(self, moment: float) -> None:
        """The node may have its addresses until then, on CLOCK_BOOTTIME; an answer after that is none."""
        left = moment - time.clock_gettime(time.CLOCK_BOOTTIME)
        await self._say(f"until {moment:.6f}", min(left, _ANSWER_SECONDS))

    async def ended(self) -> int:
        """Wait until it has ended; its exit code: 0 where it removed all it held."""
        return await self._process.wait()

    async def close(self) -> None:
        """Let it remove what it holds and end; one that hangs is killed, and may have removed nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
                return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BURY_SECONDS):
                await self._process.wait()

    async def _say(self, line: str, seconds: float = _ANSWER_SECONDS) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        async with self._turn:
            try:
                async with asyncio.timeout(seconds):
                    self._process.stdin.write(f"{line}\n".encode())
                    await self._process.stdin.drain()
                    answer = (await self._process.stdout.readline()).decode().strip()
            except asyncio.CancelledError:
                self._give_up()
                raise
            except (TimeoutError, OSError) as error:
                self._give_up()
                raise _failed(line, str(error) or "it does not answer") from None
        if answer != "ok":
            raise _failed(line, answer.removeprefix("error ") or "it has ended")

    def _give_up(self) -> None:
        """An answer that comes later would be taken for that of the next line."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()


def _failed(line: str, why: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.FAILED,
        f"the guard of the virtual addresses did not obey '{line}': {why}",
        "look at what `ip address` shows, and restart the daemon",
    )
