"""Figures, targets, tables and result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Figure:
    """Something measured some times, in `unit`; `more` explains it further."""

    contender: str
    what: str
    unit: str
    values: Sequence[float]
    more: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Target:
    """A promise and what became of it. `at_least`: false where less is better."""

    what: str
    unit: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass
class Report:
    """All of one race; printed and written in the end."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def finish(self, console: Console, check: bool) -> int:
        """Prints and writes everything; returns the exit code: 1 for a missed target under `check`."""
        console.print(self._table())
        for ratio in self.ratios:
            spread = f"{min(ratio.values):.2f}..{max(ratio.values):.2f}, n={len(ratio.values)}"
            console.print(
                f"  {ratio.what}: [bold]{ratio.median:.2f} x[/] {ratio.contender}  [dim]({spread})[/]",
                highlight=False,
            )
        for target in self.targets:
            verdict = "[green]met[/]" if target.met else "[red]MISSED[/]"
            value, bound = number(target.value), f"{'≥' if target.at_least else '≤'} {number(target.bound)}"
            console.print(
                f"  target {verdict}: {target.what} {value} {target.unit} ({bound})", highlight=False
            )
        for note in self.notes:
            console.print(f"  [dim]note: {note}[/]", highlight=False)
        console.print(f"  [dim]written to {self._write()}[/]", highlight=False)
        return 1 if check and not all(target.met for target in self.targets) else 0

    def _table(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        table.add_column("what")
        table.add_column("contender")
        keys = list(dict.fromkeys(key for figure in self.figures for key in figure.more))
        for column in ("median", "min..max", "n", *keys):
            table.add_column(column, justify="right")
        previous = None
        for figure in sorted(self.figures, key=lambda figure: self._order(figure.what)):
            if previous not in (None, figure.what):
                table.add_section()
            table.add_row(
                figure.what if figure.what != previous else "",
                figure.contender,
                f"{number(figure.median)} {figure.unit}",
                f"{number(min(figure.values))}..{number(max(figure.values))}",
                str(len(figure.values)),
                *(number(figure.more[key]) if key in figure.more else "" for key in keys),
            )
            previous = figure.what
        return table

    def _order(self, what: str) -> int:
        return next(index for index, figure in enumerate(self.figures) if figure.what == what)

    def _write(self) -> Path:
        RESULTS.mkdir(exist_ok=True)
        document: dict[str, Any] = {
            "race": self.name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": {"kernel": platform.release(), "processors": os.cpu_count()},
            "figures": [{**asdict(figure), "median": figure.median} for figure in self.figures],
            "ratios": [{**asdict(ratio), "median": ratio.median} for ratio in self.ratios],
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "notes": self.notes,
        }
        path = RESULTS / f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        return path


def number(value: float) -> str:
    """Three significant digits for a person, more where there are more before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
