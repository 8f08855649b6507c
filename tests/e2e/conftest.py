"""The cluster fixture; the daemons' logs are shown when a test fails."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if isinstance(cluster, Cluster) and report.when == "call" and report.failed:  # type: ignore[attr-defined]
        report.sections.append(("daemons", cluster.logs()))  # type: ignore[attr-defined]
    return report


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory whose name, other than those of pytest's own, is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def cluster(base: Path) -> Iterator[Cluster]:
    """Two nodes whose daemons are not started yet."""
    made = Cluster(base)
    try:
        yield made
    finally:
        made.close()
