"""`blockpair status --watch` on a terminal, beside a pair that works."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import DEADLINE, Cluster, Node, eventually

pytestmark = pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid")

_HOME = "\x1b[H"
_ALTERNATE, _LEFT = "\x1b[?1049h", "\x1b[?1049l"
_SIZE = ("COLUMNS", "LINES")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program on a terminal of its own, and what it has written there."""

    def __init__(self, node: Node, *arguments: str, kind: str = "xterm-256color") -> None:
        self._master, slave = pty.openpty()
        self.resize(100, 50)
        os.set_blocking(self._master, False)
        # What the test run's own terminal is like must not count.
        environment = {key: word for key, word in node.environment.items() if key not in _SIZE}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "blockpair.cli.main", *arguments],
            env={**environment, "TERM": kind},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._text = ""

    def resize(self, columns: int, lines: int) -> None:
        """The window has another size; the program is told."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key: str) -> None:
        """On its keyboard."""
        os.write(self._master, key.encode())

    @property
    def text(self) -> str:
        """All that it has written."""
        with contextlib.suppress(BlockingIOError, OSError):
            while part := os.read(self._master, 1 << 16):
                self._text += part.decode(errors="replace")
        return self._text

    @property
    def screen(self) -> str:
        """What was drawn last, without colours."""
        # The last one may be on its way.
        *frames, _ = self.text.split(_HOME)
        return _CONTROL.sub("", frames[-1]) if frames else ""

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextlib.contextmanager
def terminal(node: Node, *arguments: str, kind: str = "xterm-256color") -> Iterator[Terminal]:
    """One that is gone afterwards."""
    made = Terminal(node, *arguments, kind=kind)
    try:
        yield made
    finally:
        print(made.text[-2000:])
        made.close()


def test_the_screen_follows_the_pair_the_window_and_the_daemon(cluster: Cluster) -> None:
    cluster.synced()
    with terminal(cluster.a, "status", "r0", "--watch", "--interval", "0.2") as shown:
        eventually(lambda: "a second" in shown.screen, "it is drawn")
        assert _ALTERNATE in shown.text and "Primary" in shown.screen and "peer b" in shown.screen
        eventually(lambda: re.search(r"writes +0 ", shown.screen) is not None, "two looks give a rate")
        shown.resize(44, 50)
        eventually(lambda: "99 % within" not in shown.screen and "99 %" in shown.screen, "it is narrow")
        cluster.a.kill()
        eventually(lambda: "no news" in shown.screen, "the daemon is missed")
        cluster.a.start()
        eventually(lambda: "node a" in shown.screen and "no news" not in shown.screen, "it is back")
        shown.press("\x03")
        assert shown.process.wait(DEADLINE) in (0, 4)
        assert _LEFT in shown.text.split(_ALTERNATE)[-1] and "Traceback" not in shown.text


def test_when_it_is_ended_the_terminal_is_left_as_it_was(cluster: Cluster) -> None:
    cluster.a.start()
    with terminal(cluster.a, "status", "--watch") as shown:
        eventually(lambda: "node a" in shown.screen, "it is drawn")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.process.wait(DEADLINE) == 0
        assert _LEFT in shown.text.split(_ALTERNATE)[-1] and "Traceback" not in shown.text


def test_where_nothing_can_be_drawn_it_is_plain_text(cluster: Cluster) -> None:
    cluster.a.start()
    with terminal(cluster.a, "status", "--watch", "--interval", "0.1", kind="dumb") as shown:
        eventually(lambda: shown.text.count("node a") >= 3, "it is told again and again")
        assert "\x1b" not in shown.text
        shown.press("\x03")
        assert shown.process.wait(DEADLINE) == 0


def test_an_interval_is_of_watch_and_within_reason(cluster: Cluster) -> None:
    alone = cluster.a.cli("status", "--interval", "2")
    assert alone.code == 2 and "--watch" in alone.err
    for wrong in ("0", "-1", "x", "1e9"):
        assert cluster.a.cli("status", "--watch", "--interval", wrong).code == 2
