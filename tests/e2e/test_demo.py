"""The demonstration keeps what it promises, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import eventually
from tests.e2e.namespace import Namespace

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("setpriv", "nbdcopy", "nbdsh", "mke2fs", "debugfs", "e2fsck")
needs_namespaces = pytest.mark.skipif(
    not Namespace.possible() or shutil.which("setsid") is None,
    reason="needs root, network namespaces and setsid",
)


@contextlib.contextmanager
def _started(base: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/demo.py"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(base), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            # Only where the test has failed: it has ended otherwise.
            process.kill()


def _of_demo(base: Path) -> list[str]:
    """The command lines of what it has started: its folder is named there or in the environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if bytes(base) in words + (process / "environ").read_bytes():
                found.append(words.decode(errors="replace"))
    return found


def _all_ended(base: Path) -> None:
    # A network namespace is there for as long as a process is in it.
    eventually(lambda: not _of_demo(base), "every process of the demonstration has ended")


def _left_nothing(base: Path) -> None:
    _all_ended(base)
    assert list(base.iterdir()) == []


@needs_namespaces
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")
def test_the_whole_story_ends_with_an_address_that_moved(base: Path) -> None:
    with _started(base, "--size", "64", "--no-mount") as process:
        told, _ = process.communicate(timeout=280)
    assert process.returncode == 0, told
    assert re.search(r"the client's wait when its primary was killed: \d+\.\d\d s; then answered by b", told)
    assert re.search(r"the service stopped for the switchover: \d+\.\d\d s", told)
    assert re.search(r"the client's wait for the switchover: \d+\.\d\d s; then answered by a", told)
    assert re.search(r"\d+ writes acknowledged to the client, all of them on both disks", told)
    assert "Not a byte lost." in told
    _left_nothing(base)


def _ended_in_the_middle(base: Path, number: signal.Signals) -> tuple[int, str]:
    """The exit code, and what it said from then on."""
    told = ""
    with _started(base, "--only-service") as process:
        assert process.stdout is not None
        while "is on node a alone" not in told:
            line = process.stdout.readline()
            assert line, told
            told += line
        # What is about to end can be found at all.
        assert any("tests.e2e.block_app" in words for words in _of_demo(base))
        process.send_signal(number)
        rest, _ = process.communicate(timeout=120)
    return process.returncode, rest


@needs_namespaces
def test_one_that_is_interrupted_removes_what_it_made(base: Path) -> None:
    code, told = _ended_in_the_middle(base, signal.SIGINT)
    assert code == 130 and "Interrupted" in told and "Traceback" not in told, told
    _left_nothing(base)


@needs_namespaces
def test_nothing_outlives_one_that_is_killed(base: Path) -> None:
    code, _ = _ended_in_the_middle(base, signal.SIGKILL)
    assert code == -signal.SIGKILL
    _all_ended(base)


def test_it_says_what_it_lacks_for_the_address(base: Path) -> None:
    with _started(base, "--only-service", PATH="/nowhere") as process:
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in told
    assert "sudo ./scripts/demo" in told or "apt-get install iproute2" in told
    _left_nothing(base)
