"""What mkdocs does beside for the book: its contents from docs/README.md, a page made from the commands, and
links to files of this checkout, of which the book has only the names.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from manual import pages

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COMMANDS = "reference/commands.md"
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_ENTRY = re.compile(r"(?:\d+\.|-|;) \[([^\]]+)\]\(([^)#]+\.md)\)")


def contents(text: str) -> list[dict[str, Any]]:
    """The navigation: the links of lists in ``text``, docs/README.md, under the lines that head them."""
    sections: list[dict[str, Any]] = [{"The book": ["README.md"]}]
    for line in text.splitlines():
        entries = _ENTRY.findall(line)
        for words, page in entries:
            title = words[0].upper() + words[1:].replace("`", "")
            [items] = sections[-1].values()
            items.append({title: _below(page) if page.endswith("/README.md") else page})
            if page == "reference/cli.md":
                items.append({"Every command and option": COMMANDS})
        if line and not entries and not line.startswith(("#", " ")):
            sections.append({line.rstrip(":"): []})
    return [section for section in sections if all(section.values())]


def _below(index: str) -> list[str]:
    """A folder's own index and the pages that it links to."""
    folder = Path(index).parent
    linked = [
        match[2]
        for match in _LINK.finditer((DOCS / index).read_text())
        if re.fullmatch(r"[\w-]+\.md", match[2])
    ]
    return [index, *(str(folder / name) for name in dict.fromkeys(linked))]


def commands() -> str:
    """Every command with its options, from the commands themselves."""
    lines = ["# Every command and option", "", "Made from the commands' own `--help`.", ""]
    for page in pages():
        lines += [f"## `{page.name}`", "", f"    {page.name} {page.usage}", ""]
        for text, kept in page.paragraphs:
            lines += [*(f"    {line}" for line in text.splitlines()), ""] if kept else [_plain(text), ""]
        if page.children:
            lines += ["| Command | |", "| --- | --- |"]
            lines += [
                f"| [`{c.name}`](#{c.name.replace(' ', '-')}) | {_cell(c.summary)} |" for c in page.children
            ]
            lines.append("")
        lines += ["| Option | |", "| --- | --- |"]
        lines += [f"| `{_cell(option)}` | {_cell(_plain(text))} |" for option, text in page.options]
        if page.examples:
            lines += ["", "Examples:", "", *(f"    {line}" for line in page.examples)]
        lines.append("")
    return "\n".join(lines)


def without_outside_links(text: str, page: Path) -> str:
    """The text of ``page``, of links to files outside docs/ the words alone.

    Raises `ValueError` where there is no such file.
    """

    def replace(match: re.Match[str]) -> str:
        words, target = match[1], match[2].partition("#")[0]
        if not target or ":" in target:
            return match[0]
        file = (page.parent / target).resolve()
        if file.is_relative_to(DOCS):
            return match[0]
        if not file.exists():
            raise ValueError(f"{page.relative_to(ROOT)} links to {target}, which is not there")
        return words

    return _LINK.sub(replace, text)


def _plain(text: str) -> str:
    return re.sub(r"([\\*_<>\[\]])", r"\\\1", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def on_config(config: Any) -> Any:
    """mkdocs: before anything is read."""
    config.nav = contents((DOCS / "README.md").read_text())
    return config


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: what the book is made of."""
    made = importlib.import_module("mkdocs.structure.files").File.generated
    files.append(made(config, COMMANDS, content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs: a page before it is rendered."""
    return without_outside_links(markdown, DOCS / page.file.src_uri)
