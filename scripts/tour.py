"""The guided tour of vagrant/tour.toml, as data, as a page of the book, and as the tour of vagrant/README.md.

python scripts/tour.py     writes docs/tour.md, and the tour in vagrant/README.md
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vagrant_words

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "vagrant/tour.toml"
PAGE = ROOT / "docs/tour.md"
README = ROOT / "vagrant/README.md"
MACHINES = ("alpha", "beta", "witness")
TOUR, END = "<!-- tour -->\n", "<!-- end -->"
# Where the summary of a run stands, one a release of Debian.
RUNS = tuple(f"<!-- scenarios: vagrant {suite} -->\n" for suite in ("bookworm", "trixie"))
ACTS: dict[str, str] = {
    "cut": "pull {of}'s cable to the other node",
    "mend": "put {of}'s cable back",
    "power-off": "take {of}'s power away",
    "power-on": "switch {of} on again",
    "pull-disk": "pull {of}'s disk {disk} out",
    "put-disk": "put a new disk in as {of}'s disk {disk}",
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
    """One thing that is done: a command on a machine, or an ``act`` upon one, maybe upon a disk, from 1."""

    machine: str
    run: str = ""
    act: str = ""
    see: str = ""
    code: int = 0
    within_s: float = 0
    keep: str = ""
    disk: int = 0

    def told(self, words: dict[str, str]) -> str:
        """What is done, for a person: an act in words, a command as it is typed."""
        if self.act:
            return ACTS[self.act].format(of=self.machine, disk=self.disk)
        return f"{self.machine}# {self.command(words)}"

    def command(self, words: dict[str, str]) -> str:
        """The command with the lab's own words. Raises `KeyError` for one that is not known."""
        return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], self.run)


@dataclass(frozen=True)
class Step:
    """A few deeds that show one thing. ``setup``: what `vagrant up` has done already."""

    title: str
    text: str
    deeds: tuple[Deed, ...]
    setup: bool = False


def steps(text: str) -> list[Step]:
    """The tour of tour.toml's ``text``. Raises `ValueError` for what it cannot be."""
    found = tomllib.loads(text)["step"]
    return [
        Step(each["title"], each["text"].strip(), tuple(map(_deed, each["do"])), each.get("setup", False))
        for each in found
    ]


def page(text: str, present: str) -> str:
    """The same as Markdown. The summaries of runs in virtual machines stay as in the ``present`` one."""
    said = tomllib.loads(text)
    lines = ["# The guided tour", "", said["intro"].strip(), ""]
    for number, step in enumerate(steps(text), start=1):
        lines += [f"## {number}. {step.title}", "", step.text, ""]
        for deed in step.deeds:
            if deed.act:
                lines.append(f"    # {deed.told(SHOWN)}")
            else:
                lines.append(f"    {deed.told(SHOWN)}")
        lines.append("")
    lines += [said["machines"].strip(), ""]
    for run in RUNS:
        lines += [run + _split(present, run)[1] + END, ""]
    return "\n".join(lines)


def readme(text: str, present: str) -> str:
    """The ``present`` README with the tour as it is in the virtual machines, without what is set up there."""
    lines = []
    for number, step in enumerate((each for each in steps(text) if not each.setup), start=1):
        lines += [f"### {number}. {step.title}", "", step.text, ""]
        for deed in step.deeds:
            if deed.act:
                lines += (
                    f"    host# {' '.join(command)}"
                    for command in vagrant_words.commands(deed.act, deed.machine, deed.disk)
                )
            else:
                lines.append(f"    {deed.machine}# {deed.command(vagrant_words.WORDS)}")
        lines.append("")
    head, _, tail = _split(present, TOUR)
    return head + TOUR + "\n".join(lines) + END + tail


def _split(document: str, begin: str) -> tuple[str, str, str]:
    """What is before the line ``begin``, between it and the next end, and after that."""
    head, _, rest = document.partition(begin)
    inside, _, tail = rest.partition(END)
    return head, inside, tail


def _deed(table: dict[str, Any]) -> Deed:
    known = {"on", "run", "see", "code", "within", "keep"} if "on" in table else {"act", "of", "disk"}
    machine = table.get("on") or table.get("of")
    if set(table) - known or machine not in MACHINES or table.get("act", "cut") not in ACTS:
        raise ValueError(f"{SOURCE.name}: {table} is nothing that can be done")
    if ("disk" in table) != str(table.get("act")).endswith("-disk"):
        raise ValueError(f"{SOURCE.name}: {table} names a disk where none is meant, or none where one is")
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
        table.get("disk", 0),
    )


if __name__ == "__main__":
    PAGE.write_text(page(SOURCE.read_text(), PAGE.read_text()))
    README.write_text(readme(SOURCE.read_text(), README.read_text()))
