"""The cluster fixture; the daemons' logs are shown when a test fails."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.duo import Duo
from tests.e2e.trio import Trio


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.failed:  # type: ignore[attr-defined]
        for cluster in _clusters(getattr(item, "funcargs", {}).values()):
            report.sections.append(("daemons", cluster.logs()))  # type: ignore[attr-defined]
    return report


def _clusters(arguments: Iterable[object]) -> set[Cluster]:
    """Those that a test was given, or that are part of what it was given."""
    found = {one if isinstance(one, Cluster) else getattr(one, "cluster", None) for one in arguments}
    return {one for one in found if isinstance(one, Cluster)}


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory whose name, other than those of pytest's own, is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def trio(base: Path) -> Iterator[Trio]:
    """Nothing of it is started yet."""
    with closing(Trio(base)) as made:
        yield made


@pytest.fixture
def duo(base: Path) -> Iterator[Duo]:
    """Nothing of it is started yet."""
    with closing(Duo(base)) as made:
        yield made


@pytest.fixture
def cluster(base: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes whose daemons are not started yet; where a test has them with an arbiter, these."""
    for name in ("wired", "trio", "duo"):
        if name in request.fixturenames:
            made = request.getfixturevalue(name)
            assert isinstance(made, Trio)
            yield made.cluster
            return
    with closing(Cluster(base)) as alone:
        yield alone
