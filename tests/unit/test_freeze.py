"""Stopping the processes of a node, as the faults of the lab do."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.e2e.cluster import freeze


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_is_stopped_when_it_returns() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        freeze(child.pid)
        assert _state(child.pid) == "T"
        child.send_signal(signal.SIGCONT)
        child.kill()


def test_one_that_has_ended_and_that_nobody_waits_for_is_not_waited_for() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert _state(child.pid) == "Z"
        freeze(child.pid)
