"""`Collectors`: asks every subject at once, and goes on without one that fails or takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from blockpair.metrics.family import Sample, gauge

# Prometheus waits ten seconds, unless it is told otherwise: what is known by then is told.
PATIENCE_SECONDS = 5.0

OK = gauge("blockpair_collector_ok", "0: these metrics are missing; the daemon's log says why", "collector")
TOOK = gauge("blockpair_collector_seconds", "What it took to look at these", "collector")

Collect = Callable[[], Awaitable[Iterable[Sample]]]


class Collectors:
    """``subjects``: by name, what gives the samples of one."""

    def __init__(self, subjects: Mapping[str, Collect], *, patience: float = PATIENCE_SECONDS) -> None:
        self._subjects = subjects
        self._patience = patience
        # One a subject at a time, whoever waits for it: what hangs does not pile up with every scrape.
        self._under_way: dict[str, asyncio.Task[list[Sample]]] = {}
        self._failing: dict[str, str] = {}
        self._log = structlog.get_logger().bind(part="metrics")

    async def samples(self) -> list[Sample]:
        """All of them, and how each subject did."""
        found = await asyncio.gather(*map(self._ask, self._subjects))
        return [sample for samples in found for sample in samples]

    def close(self) -> None:
        """Wait for nothing any more."""
        for task in self._under_way.values():
            task.cancel()

    async def _ask(self, name: str) -> list[Sample]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.create_task(self._collect(name))
        done, _ = await asyncio.wait({task}, timeout=self._patience)
        samples: list[Sample] = []
        problem = ""
        if not done or task.cancelled():
            problem = f"no answer within {self._patience:g} s"
        elif (error := task.exception()) is not None:
            problem = str(error) or type(error).__name__
        else:
            samples = task.result()
        self._tell(name, problem)
        return [*samples, OK.sample(not problem, name), TOOK.sample(loop.time() - began, name)]

    async def _collect(self, name: str) -> list[Sample]:
        try:
            return list(await self._subjects[name]())
        finally:
            del self._under_way[name]

    def _tell(self, name: str, problem: str) -> None:
        """Once for each problem: it comes again with every scrape."""
        before = self._failing.get(name, "")
        self._failing[name] = problem
        if problem and problem != before:
            self._log.warning("metrics.collector-failed", collector=name, text=problem)
        elif before and not problem:
            self._log.info("metrics.collector-works", collector=name)
