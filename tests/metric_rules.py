"""Which metrics the alert rules and the dashboard of packaging/ ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGING = Path(__file__).parent.parent / "packaging"
ALERTS = PACKAGING / "prometheus/alerts.yml"
DASHBOARD = PACKAGING / "grafana/blockpair.json"
_NAME = re.compile(r"\b(?:blockpair|process)_[a-z_]+\b")


def alerts() -> dict[str, str]:
    """The expression of each alert, by its name."""
    text = ALERTS.read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (.*)\n", text)
    assert len(found) == text.count("- alert:"), "an alert without its expression in the next line"
    return dict(found)


def dashboard_queries() -> list[str]:
    """All queries of the dashboard."""
    return list(_queries(json.loads(DASHBOARD.read_text())))


def _queries(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("expr", "definition"):
                yield value
            else:
                yield from _queries(value)
    elif isinstance(part, list):
        for value in part:
            yield from _queries(value)


def names(expressions: list[str]) -> set[str]:
    """The metrics in them."""
    return {name for text in expressions for name in _NAME.findall(text)}
