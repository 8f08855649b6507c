"""Runs the system's own programs: bounded output, and none left behind when its time is up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from dataclasses import dataclass

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_MOST_OUTPUT = 16 << 10
# A process in an uninterruptible wait dies when the kernel lets it; nobody waits for that.
_BURY_SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    """A program that ended: its exit code, and the end of what it printed."""

    code: int
    text: str

    @property
    def reason(self) -> str:
        """Its last words, for a message."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return "; ".join(lines[-3:]) or f"it ended with {self.code}"


async def run(*arguments: str) -> Done:
    """Run a program to its end; cancelled, its whole process group is killed.

    Raises `FileNotFoundError` that names a program that is not installed, `OSError`.
    """
    program = shutil.which(arguments[0], path=os.environ.get("PATH", "") + ":" + _PATH)
    if program is None:
        raise FileNotFoundError(2, "there is no such program", arguments[0])
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            program,
            *arguments[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", _PATH), "LC_ALL": "C", "HOME": "/root"},
        )
    )
    kept = b""
    try:
        process = await asyncio.shield(starting)
        assert process.stdout is not None
        while data := await process.stdout.read(4096):
            kept = (kept + data)[-_MOST_OUTPUT:]
        code = await process.wait()
    except asyncio.CancelledError:
        # It may be running before asyncio has it, which would then end it alone, without its children.
        process = await starting
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BURY_SECONDS):
                await process.wait()
        raise
    return Done(code, kept.decode(errors="replace"))
