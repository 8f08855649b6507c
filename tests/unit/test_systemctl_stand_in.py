"""What stands in for systemd in the tests of services tells whether its application lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service_pair import install_systemctl


@pytest.fixture
def node(tmp_path: Path) -> Path:
    install_systemctl(tmp_path, "a", tmp_path / "r0.sock")
    return tmp_path


@pytest.fixture
def child() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()


def _active(node: Path, pid: int) -> bool:
    (node / "units/app.service").write_text(f"{pid}\n")
    words = [str(node / "bin/systemctl"), "is-active", "app.service"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout == "active\n"


def test_an_application_is_known_by_its_words_and_another_process_is_none(
    node: Path, child: list[subprocess.Popen[bytes]]
) -> None:
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    child.append(subprocess.Popen([*sleeps, str(node / "r0.sock")]))
    child.append(subprocess.Popen(sleeps))
    assert [_active(node, one.pid) for one in child] == [True, False]


def test_one_without_words_lives_until_it_has_ended(node: Path, child: list[subprocess.Popen[bytes]]) -> None:
    # As one is for a moment while it becomes another program.
    one = subprocess.Popen([""], executable="/bin/cat", stdin=subprocess.PIPE)
    child.append(one)
    assert not Path(f"/proc/{one.pid}/cmdline").read_bytes().strip(b"\0")
    assert _active(node, one.pid)
    one.kill()
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    assert not _active(node, one.pid)
    one.wait()
    assert not _active(node, one.pid)
