"""libvirt of one's own: daemons, networks, images and machines in namespaces that end with who made them.

Nothing of it is seen by the host, nor by a libvirt that runs there: network, mounts, processes are its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from tests.lab.command import CommandTimeout, LabError, Result

_INIT = Path(__file__).with_name("hypervisor_init.sh")
_PREFIX = "lab-"


class Hypervisor:
    """Its daemons run from ``with`` to its end. ``below``: where the folder for all it writes is made."""

    def __init__(self, below: Path) -> None:
        below.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(below)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=below))
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Hypervisor:
        separate = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
        said = (self.folder / "init.log").open("wb")
        # It ends with this pipe, however this process ends.
        self._process = subprocess.Popen(
            [*separate, str(_INIT), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            # A Ctrl-C is for whoever made this.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            why = (self.folder / "init.log").read_text(errors="replace").strip()
            self.close()
            raise LabError(f"libvirt did not start: {why}")
        [first] = psutil.Process(self._process.pid).children()
        self.pid = first.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process in it, and remove what it wrote."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        shutil.rmtree(self.folder)

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in there."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", *command]

    def run(self, *command: str, timeout: float = 300, text: str = "") -> Result:
        """Run a program in there to its end, with ``text`` as its standard input.

        Raises `CommandTimeout` after ``timeout`` seconds.
        """
        try:
            done = subprocess.run(
                self.enter(command),
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env={**os.environ, **self.environment},
            )
        except subprocess.TimeoutExpired as error:
            raise CommandTimeout(f"{' '.join(command)}: not within {timeout:g} s: {error.stderr!r}") from None
        return Result(done.returncode, done.stdout, done.stderr)

    def must(self, *command: str, timeout: float = 300) -> str:
        """Run a program that must succeed; its standard output. Raises `LabError` with what it said."""
        result = self.run(*command, timeout=timeout)
        if result.returncode:
            said = (result.stdout + result.stderr).strip()[-4000:]
            raise LabError(f"{' '.join(command)}: ended with {result.returncode}: {said}")
        return result.stdout


def _remove_abandoned(below: Path) -> None:
    """What runs left behind that were killed; their processes ended with them."""
    for folder in below.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
