"""Runs the administrator's programs for an event: all of a directory, one after the other."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from blockpair.events.event import Event, Filter, encode
from blockpair.events.targets import NotDelivered
from blockpair.units import counted

# As run-parts has it: what a package manager or an editor leaves behind is no hook.
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_WORDS = 2000
_TERM_SECONDS = 2.0
_LOOK_SECONDS = 0.5


class Hooks:
    """The target of all programs in ``directory``, each for ``timeout`` seconds at most."""

    name = "hooks"

    def __init__(self, directory: Path, chosen: Filter, timeout: float) -> None:
        self._directory = directory
        self._timeout = timeout
        self._filter = chosen

    def wants(self, event: Event) -> bool:
        """As it is configured, while there are programs."""
        return self._filter.wants(event) and not self.empty()

    def empty(self) -> bool:
        """Whether there are none."""
        try:
            return not self.hooks()
        except NotDelivered:
            # That is told when it is tried.
            return False

    def place(self) -> str:
        """How many programs there are, and where."""
        try:
            return f"{counted(len(self.hooks()), 'program')} in {self._directory}"
        except NotDelivered as error:
            return error.why

    def send(self, event: Event, ended: Callable[[], bool]) -> None:
        """Run every hook, also after one that fails. Raises `NotDelivered`: what a hook has done is not to be
        done again for the sake of another.
        """
        failures = []
        for hook in self.hooks():
            try:
                self._run(hook, event, ended)
            except NotDelivered as error:
                failures.append(f"{hook.name}: {error.why}")
        if failures:
            raise NotDelivered("; ".join(failures), again=False)

    def hooks(self) -> list[Path]:
        """The programs, in the order in which they are run; none where the directory is not there. Raises
        `NotDelivered`.
        """
        try:
            names = sorted(os.listdir(self._directory))  # noqa: PTH208 - names, in the order of their bytes
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NotDelivered(f"{self._directory} cannot be read: {error.strerror}", again=False) from None
        files = [self._directory / name for name in names if _NAME.fullmatch(name)]
        return [file for file in files if file.is_file() and os.access(file, os.X_OK)]

    def _run(self, hook: Path, event: Event, ended: Callable[[], bool]) -> None:
        _check_owner(hook)
        environment = {
            "PATH": _PATH,
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            **{f"BLOCKPAIR_{key}": value for key, value in _variables(event).items()},
        }
        # No pipe: one that nobody reads from would hold up the writer.
        reading = os.memfd_create("event")
        try:
            os.write(reading, encode(event))
            os.lseek(reading, 0, os.SEEK_SET)
            process = subprocess.Popen(
                [hook],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise NotDelivered(f"it cannot be run: {error.strerror}", again=False) from None
        finally:
            os.close(reading)
        with process:
            words = self._follow(process, ended)
        if process.returncode:
            raise NotDelivered(words or f"it ended with {process.returncode}", again=False)

    def _follow(self, process: subprocess.Popen[bytes], ended: Callable[[], bool]) -> str:
        """Wait for its end; the first of what it says. Raises `NotDelivered` where it takes too long."""
        assert process.stderr is not None
        deadline = time.monotonic() + self._timeout
        said = b""
        exited = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(exited, selectors.EVENT_READ)
                selector.register(process.stderr, selectors.EVENT_READ)
                while True:
                    left = deadline - time.monotonic()
                    if left <= 0 or ended():
                        _end(process, exited)
                        raise NotDelivered(
                            f"it was ended: it took more than {self._timeout:g} s"
                            if left <= 0
                            else "it was ended with the daemon",
                            again=False,
                        )
                    ready = {key.fd for key, _ in selector.select(min(left, _LOOK_SECONDS))}
                    if process.stderr.fileno() in ready:
                        data = os.read(process.stderr.fileno(), 4096)
                        said = (said + data)[:_MOST_WORDS]
                        if not data:
                            selector.unregister(process.stderr)
                    elif exited in ready:
                        # What it left running may hold the pipe open: that is not waited for.
                        break
        finally:
            os.close(exited)
        process.wait()
        return said.decode(errors="replace").strip()


def _end(process: subprocess.Popen[bytes], exited: int) -> None:
    """End it, and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ)
            if selector.select(_TERM_SECONDS):
                break
    # Also those of its group that ignored the first word.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _check_owner(hook: Path) -> None:
    """Raises `NotDelivered` where others than root, or the daemon's user, say what the daemon runs."""
    found = hook.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotDelivered(
            f"it is not run: others may write it (chown root:root {hook}; chmod 755 {hook})", again=False
        )


def _variables(event: Event) -> dict[str, str]:
    return {
        "EVENT": event.what,
        "SEVERITY": event.severity,
        "TIME": event.time,
        "NODE": event.node,
        "SEQ": str(event.seq),
        "RESOURCE": event.resource or "",
        "PEER": event.peer or "",
        # A zero byte would end it; nothing else is special there.
        "TEXT": event.text.replace("\0", ""),
        "WHY": event.why.replace("\0", ""),
        "NEXT": event.next.replace("\0", ""),
    }
