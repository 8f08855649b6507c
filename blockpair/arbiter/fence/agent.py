"""Runs a fence agent, as ClusterLabs' interface says: lines of ``key=value`` on standard input, an exit code
back.

A secret goes from its file to the agent's standard input and nowhere else: not into arguments or the
environment, which others may read, and what the agent says is searched for it before anybody sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blockpair.config.fence import Device
from blockpair.secrecy import HIDDEN, redact

Action = Literal["off", "status", "monitor", "metadata"]

OFF = 2
"""What ``status`` ends with for a node that is off."""

# A pipe takes this much without a reader: the agent's input is there before the agent is.
_MAX_INPUT = 32 << 10
_MAX_OUTPUT = 64 << 10
_MAX_SECRET = 4096
_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class AgentError(Exception):
    """An agent that cannot be run; its text names the remedy too."""


@dataclass(frozen=True)
class Result:
    """How an action ended. ``code``: the exit code; negative: killed by that signal; None: not within its
    time.
    """

    code: int | None
    output: str
    seconds: float


async def run_agent(device: Device, action: Action) -> Result:
    """Carry out ``action``. One that takes too long is ended, with all that it started.

    Raises `AgentError`.
    """
    program = find_agent(device.agent)
    secrets = [(name, read_secret(file)) for name, file in device.secrets]
    lines = [("action", action), *device.options, *secrets]
    text = "".join(f"{name}={value}\n" for name, value in lines).encode()
    if len(text) > _MAX_INPUT:
        raise AgentError(f"{device.agent}: its options are too long; remedy: shorten them")
    began = time.monotonic()
    code, output = await _run(program, text, device.timeout)
    said = output.decode(errors="backslashreplace").strip()
    for _, secret in secrets:
        if secret:
            said = said.replace(secret, HIDDEN)
    return Result(code, redact(said), time.monotonic() - began)


def find_agent(agent: str) -> Path:
    """The program, if nobody but root and this user could have changed it. Raises `AgentError`."""
    places = [Path(agent)] if agent.startswith("/") else [Path(each) / agent for each in _DIRECTORIES]
    for place in places:
        try:
            found = place.stat()
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode) or not os.access(place, os.X_OK):
            raise AgentError(f"{place} is no program; remedy: correct agent, or the file's mode")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise AgentError(
                f"{place} could be changed by others than root; remedy: chown root {place} && "
                f"chmod go-w {place}"
            )
        return place
    raise AgentError(
        f"the fence agent {agent} is not here (looked for {', '.join(map(str, places))}); remedy: "
        "install it on each node (Debian: apt-get install fence-agents), or write its absolute path"
    )


def read_secret(file: Path) -> str:
    """A secret's one line. Raises `AgentError`, which never holds it."""
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise AgentError(f"{file} may be read by others; remedy: chmod 600 {file}")
            content = stream.read(_MAX_SECRET + 1)
    except OSError as error:
        raise AgentError(
            f"the secret in {file} cannot be read: {error.strerror}; remedy: put it there on this "
            "node, for root alone"
        ) from None
    try:
        text = content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        text = "\n"
    if not text or len(content) > _MAX_SECRET or not text.isprintable():
        raise AgentError(f"{file} does not hold one line of printable text; remedy: write the secret into it")
    return text


async def _run(program: Path, text: bytes, seconds: float) -> tuple[int | None, bytes]:
    """Exit code and output. The output's end is not waited for: a process left behind may hold it open."""
    loop = asyncio.get_running_loop()
    output = bytearray()
    given, text_end = os.pipe()
    said, said_end = os.pipe()
    os.set_blocking(said, False)

    def take() -> bool:
        """Keep what is there, but no more than may be kept. Whether there may be more."""
        try:
            data = os.read(said, _MAX_OUTPUT)
        except BlockingIOError:
            return False
        if not data:
            loop.remove_reader(said)
        output.extend(data[: _MAX_OUTPUT - len(output)])
        return bool(data)

    try:
        try:
            os.write(text_end, text)
            os.close(text_end)
            process = await asyncio.create_subprocess_exec(
                program,
                stdin=given,
                stdout=said_end,
                stderr=said_end,
                start_new_session=True,
                env={"PATH": _PATH, "LC_ALL": "C", "HOME": "/root"},
                cwd="/",
            )
        except OSError as error:
            raise AgentError(
                f"{program} cannot be run: {error.strerror}; remedy: see that it is a program"
            ) from None
        finally:
            os.close(given)
            os.close(said_end)
        loop.add_reader(said, take)
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            return None, bytes(output)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            loop.remove_reader(said)
            while len(output) < _MAX_OUTPUT and take():
                pass
        return process.returncode, bytes(output)
    finally:
        loop.remove_reader(said)
        os.close(said)
