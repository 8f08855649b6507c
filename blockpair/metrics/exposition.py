"""Samples as the text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isinf

from prometheus_client import Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from blockpair.metrics.family import Family, Sample
from blockpair.metrics.http import Page


class Exposition:
    """Renders the samples of a scrape, and the daemon's own process beside them."""

    def __init__(self) -> None:
        # Of no registry: only what is given here is shown.
        self._process = ProcessCollector(registry=None)

    def page(self, samples: Iterable[Sample], accept: str) -> Page:
        """``accept``: what the scraper said that it understands, in HTTP's words."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # It takes a version for a number, whatever was sent.
            encode, content_type = choose_encoder("")
        return Page(content_type, encode(_Scrape(samples, self._process)))


class _Scrape(Collector):
    def __init__(self, samples: Iterable[Sample], process: ProcessCollector) -> None:
        self._samples = samples
        self._process = process

    def collect(self) -> Iterator[Metric]:
        yield from metrics(self._samples)
        yield from self._process.collect()


def metrics(samples: Iterable[Sample]) -> list[Metric]:
    """The samples by family, each family once, as the format wants it."""
    found: dict[Family, Metric] = {}
    for sample in samples:
        family = sample.family
        metric = found.get(family)
        if metric is None:
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            metric = found[family] = Metric(name, family.meaning, family.kind)
        labels = dict(zip(family.labels, sample.labels, strict=True))
        if sample.bound is not None:
            labels["le"] = "+Inf" if isinf(sample.bound) else repr(sample.bound)
        metric.add_sample(f"{family.name}{sample.part}", labels, sample.value)
    return list(found.values())
