"""Man pages, shell completions and the reference of options, all made from the commands themselves.

Run by scripts/wheels:  python scripts/manual.py FOLDER
writes FOLDER/man/*.8 and FOLDER/completions/{blockpair,_blockpair,blockpair.fish}.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from blockpair import __version__
from blockpair.cli.main import group
from blockpair.daemon.main import command as daemon

SECTION = 8
COMPLETIONS = {"bash": "blockpair", "zsh": "_blockpair", "fish": "blockpair.fish"}
_EXIT_CODES = (
    ("0", "done, or all is well"),
    ("1", "failed; the message says what, why, and what to do"),
    ("2", "usage: no such command or option, or its value cannot be"),
    ("3", "refused, because it could lose or part data, or because the device is in use"),
    ("4", "degraded: something needs attention"),
    ("5", "no daemon answers"),
)
_FILES = (
    ("/etc/blockpair/blockpair.toml", "the node"),
    ("/etc/blockpair/cluster.toml", "what the nodes of a cluster share; changed by blockpair config edit"),
    ("/run/blockpair", "sockets, the NBD exports among them"),
    ("/var/lib/blockpair", "keys, metadata, history, bundles"),
    ("/dev/blockpair", "the kernel devices, by the names of their resources"),
)


@dataclass(frozen=True)
class Page:
    """One command: its whole name, such as ``blockpair cluster init``, and how click knows it."""

    name: str
    context: click.Context

    @property
    def title(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def children(self) -> list[Page]:
        """The commands below it, in the order of its help."""
        command = self.context.command
        if not isinstance(command, click.Group):
            return []
        found = []
        for name in command.list_commands(self.context):
            child = command.get_command(self.context, name)
            assert child is not None, name
            found.append(Page(f"{self.name} {name}", click.Context(child, self.context, info_name=name)))
        return found

    @property
    def usage(self) -> str:
        """What follows the name on a command line."""
        return " ".join(self.context.command.collect_usage_pieces(self.context))

    @property
    def summary(self) -> str:
        return self.context.command.get_short_help_str(limit=200).rstrip(".")

    @property
    def paragraphs(self) -> list[tuple[str, bool]]:
        """The paragraphs of its help, without the examples; whether their lines stay as they are."""
        return [part for part in self._all_paragraphs() if not part[0].startswith("Examples:\n")]

    @property
    def examples(self) -> list[str]:
        """Lines."""
        for text, _ in self._all_paragraphs():
            head, _, rest = text.partition("\n")
            if head == "Examples:":
                return textwrap.dedent(rest).splitlines()
        return []

    @property
    def options(self) -> list[tuple[str, str]]:
        """Each as it is written, and what it does."""
        records = (
            each.get_help_record(self.context) for each in self.context.command.get_params(self.context)
        )
        return [record for record in records if record is not None and record[1]]

    def _all_paragraphs(self) -> list[tuple[str, bool]]:
        found = []
        for part in re.split(r"\n\s*\n", inspect.cleandoc(self.context.command.help or "")):
            kept = part.startswith("\b\n")
            text = part.removeprefix("\b\n") if kept else " ".join(part.split())
            found.append((text, kept))
        return found


def pages() -> Iterator[Page]:
    """Both programs and every command, each before those below it."""
    waiting = [
        Page(name, click.Context(command, info_name=name, **command.context_settings))
        for name, command in (("blockpair", group), ("blockpaird", daemon))
    ]
    while waiting:
        page = waiting.pop(0)
        yield page
        waiting[:0] = page.children


def man(page: Page) -> str:
    """A page for man(1), in its macros."""
    lines = [
        f'.TH "{page.title.upper()}" "{SECTION}" "" "blockpair {__version__}" "blockpair"',
        ".SH NAME",
        _roff(f"{page.title} - {page.summary[0].lower()}{page.summary[1:]}").replace(r" \- ", r" \- ", 1),
        ".SH SYNOPSIS",
        rf"\fB{_roff(page.name)}\fR {_roff(page.usage)}",
        ".SH DESCRIPTION",
    ]
    for text, kept in page.paragraphs:
        lines += [".PP", *([".nf", _roff(text), ".fi"] if kept else [_roff(text)])]
    for title, rows in (
        ("COMMANDS", [(child.name, child.summary) for child in page.children]),
        ("OPTIONS", page.options),
    ):
        if rows:
            lines += [f".SH {title}", *_table(rows)]
    if page.examples:
        lines += [".SH EXAMPLES", ".nf", *(_roff(line) for line in page.examples), ".fi"]
    lines += [".SH EXIT STATUS", *_table(_EXIT_CODES)]
    if " " not in page.name:
        lines += [".SH FILES", *_table(_FILES)]
    related = _related(page)
    lines += [".SH SEE ALSO", ",\n".join(rf"\fB{_roff(name)}\fR({SECTION})" for name in related)]
    lines += [".PP", "The book: /usr/share/doc/blockpair"]
    return "\n".join(lines) + "\n"


def _related(page: Page) -> list[str]:
    if " " not in page.name:
        other = "blockpaird" if page.name == "blockpair" else "blockpair"
        return [other, *(child.title for child in page.children)]
    above = page.name.rpartition(" ")[0].replace(" ", "-")
    return [above, *(child.title for child in page.children)]


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for term, text in rows:
        lines += [".TP", rf"\fB{_roff(term)}\fR", _roff(" ".join(text.split()))]
    return lines


def _roff(text: str) -> str:
    """Text in which nothing is taken for a request, and a hyphen can be searched for and copied."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", escaped)


def completion(shell: str) -> str:
    """What ``shell`` reads to complete the words of ``blockpair``."""
    found = get_completion_class(shell)
    assert found is not None, shell
    # Its own source() would first ask the installed bash for its version.
    maker = found(group, {}, "blockpair", "_BLOCKPAIR_COMPLETE")
    return f"{(maker.source_template % maker.source_vars()).strip()}\n"


def write(folder: Path) -> None:
    """All of it."""
    for name in ("man", "completions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for page in pages():
        (folder / "man" / f"{page.title}.{SECTION}").write_text(man(page))
    for shell, name in COMPLETIONS.items():
        (folder / "completions" / name).write_text(completion(shell))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit((__doc__ or "").strip())
    write(Path(sys.argv[1]))
