"""Fixtures of the lab: each test gets a lab of its own; without the means for one, its tests are skipped."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.lab.harness import Lab, LabUnavailable


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab; boot guests with ``lab.boot(GuestSpec(...))``."""
    try:
        made = Lab()
    except LabUnavailable as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the guests' consoles and the logs of the daemons in them with a failed test."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and isinstance(lab, Lab):
        report.sections += [(name, log[-6000:]) for name, log in lab.logs().items()]
    return report
