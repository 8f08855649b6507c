"""The guided tour of vagrant/tour.toml, as data and as a page of the book.

python scripts/tour.py     writes docs/tour.md
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "vagrant/tour.toml"
PAGE = ROOT / "docs/tour.md"
MACHINES = ("alpha", "beta", "witness")
Act = Literal["cut", "mend", "power-off", "power-on"]
ACTS: dict[str, str] = {
    "cut": "pull {of}'s cable to the other node",
    "mend": "put {of}'s cable back",
    "power-off": "take {of}'s power away",
    "power-on": "switch {of} on again",
}
# What the page shows for the lab's own words.
SHOWN = {
    "alpha": "10.0.0.1",
    "beta": "10.0.0.2",
    "alpha_front": "192.0.2.1",
    "witness": "192.0.2.3",
    "vip": "192.0.2.100",
    "front": "eth0",
    "token": "TOKEN",
    **{f"disk{number}": f"/dev/sd{letter}" for number, letter in enumerate("bcdef", start=1)},
}


@dataclass(frozen=True)
class Deed:
    """One thing that is done: a command on a machine, or an ``act`` upon one."""

    machine: str
    run: str = ""
    act: str = ""
    see: str = ""
    code: int = 0
    within_s: float = 0
    keep: str = ""

    def command(self, words: dict[str, str]) -> str:
        """The command with the lab's own words. Raises `KeyError` for one that is not known."""
        return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], self.run)


@dataclass(frozen=True)
class Step:
    """A few deeds that show one thing."""

    title: str
    text: str
    deeds: tuple[Deed, ...]


def steps(text: str) -> list[Step]:
    """The tour of tour.toml's ``text``. Raises `ValueError` for what it cannot be."""
    found = tomllib.loads(text)["step"]
    return [Step(each["title"], each["text"].strip(), tuple(map(_deed, each["do"]))) for each in found]


def page(text: str) -> str:
    """The same as Markdown."""
    lines = ["# The guided tour", "", tomllib.loads(text)["intro"].strip(), ""]
    tour = steps(text)
    for number, step in enumerate(tour, start=1):
        lines += [f"## {number}. {step.title}", "", step.text, ""]
        for deed in step.deeds:
            if deed.act:
                lines.append(f"    # {ACTS[deed.act].format(of=deed.machine)}")
            else:
                lines.append(f"    {deed.machine}# {deed.command(SHOWN)}")
        lines.append("")
    return "\n".join(lines)


def _deed(table: dict[str, Any]) -> Deed:
    known = {"on", "run", "see", "code", "within", "keep"} if "on" in table else {"act", "of"}
    machine = table.get("on") or table.get("of")
    if set(table) - known or machine not in MACHINES or table.get("act", "cut") not in ACTS:
        raise ValueError(f"{SOURCE.name}: {table} is nothing that can be done")
    if "keep" in table and "see" not in table:
        raise ValueError(f"{SOURCE.name}: {table} keeps what is not looked for")
    return Deed(
        machine,
        table.get("run", ""),
        table.get("act", ""),
        table.get("see", ""),
        table.get("code", 0),
        table.get("within", 0),
        table.get("keep", ""),
    )


if __name__ == "__main__":
    PAGE.write_text(page(SOURCE.read_text()))
