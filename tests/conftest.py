"""What every test rests on."""

from __future__ import annotations

import signal
from zlib import crc32

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# How long an example takes is the machine's: beside others it may be anything.
settings.register_profile("beside-others", deadline=None)
settings.load_profile("beside-others")


def pytest_configure() -> None:
    """Whoever starts tests in the background of a shell has them ignore SIGINT, and their children with them:
    commands that are interrupted must not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """Tests run side by side, of the lab no more than two: each has guests that fill the machine."""

    def _split_scope(self, nodeid: str) -> str:
        return f"lab {crc32(nodeid.encode()) % 2}" if nodeid.startswith("tests/lab/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _SideBySide:
    """Used where tests run in several processes (`pytest -n 3`)."""
    return _SideBySide(config, log)
