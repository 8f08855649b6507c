"""What every test rests on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

_LAB = Path(__file__).parent / "lab"


def pytest_configure() -> None:
    """Whoever starts tests in the background of a shell has them ignore SIGINT, and their children with them:
    commands that are interrupted must not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests run side by side, those of the lab one after the other: each has guests that fill the machine."""
    if item.path.is_relative_to(_LAB):
        item.add_marker(pytest.mark.xdist_group("lab"))
