"""How the demonstration tells what it does: chapters, remarks, and a closing table of what was measured."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def size_text(count: int) -> str:
    """A number of bytes for a person."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


@dataclass(frozen=True)
class Row:
    """A line of the closing table; `bytes_` and `seconds` are None where they mean nothing."""

    what: str
    bytes_: int | None
    seconds: float | None
    note: str = ""


class Story:
    """What is told on `console`, chapter by chapter, and the rows of the closing table."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[Row] = []
        self._chapter = 0

    def chapter(self, title: str, text: str) -> None:
        self._chapter += 1
        self.console.print(f"\n[bold cyan]{self._chapter}. {title}[/]")
        self.console.print(textwrap.indent(text, "   ") + "\n", highlight=False)

    def tell(self, text: str) -> None:
        self.console.print(f"  [green]·[/] {text}", highlight=False)

    def show(self, command: str) -> None:
        """A command of the system, as `blockpair`'s are shown by the node that runs them."""
        self.console.print(f"  [dim] $[/] [bold]{escape(command)}[/]", highlight=False)

    def measured(self, row: Row) -> None:
        self.rows.append(row)
        took = "" if row.seconds is None else f"{row.seconds:.2f} s"
        if row.bytes_ is not None:
            took = size_text(row.bytes_) + (f" in {took}" if took else "")
        rate = f", {size_text(int(row.bytes_ / row.seconds))}/s" if row.bytes_ and row.seconds else ""
        self.tell(f"{row.what}: {took}{rate}{'; ' + row.note if row.note else ''}")

    def table(self) -> Table:
        """The closing table."""
        table = Table(title="What happened", title_justify="left")
        table.add_column("step")
        for column in ("bytes", "seconds", "rate"):
            table.add_column(column, justify="right")
        table.add_column("")
        for row in self.rows:
            rate = f"{size_text(int(row.bytes_ / row.seconds))}/s" if row.bytes_ and row.seconds else ""
            table.add_row(
                row.what,
                "" if row.bytes_ is None else size_text(row.bytes_),
                "" if row.seconds is None else f"{row.seconds:.2f}",
                rate,
                row.note,
            )
        return table
