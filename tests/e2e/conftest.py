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
def cluster() -> Iterator[Cluster]:
    """Two nodes whose daemons are not started yet."""
    # pytest's own directories have names too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as base:
        made = Cluster(Path(base))
        try:
            yield made
        finally:
            made.close()
