"""What every test rests on."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Whoever starts tests in the background of a shell has them ignore SIGINT, and their children with them:
    commands that are interrupted must not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
