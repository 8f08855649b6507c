"""The book: what it says is there, is there, and every link leads somewhere."""

from __future__ import annotations

import functools
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import book
import click
import manual
import pytest

from blockpair.cli.main import group
from blockpair.status.conditions import CONDITIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# What is read beside the book, on the page of the repository.
OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "vagrant/README.md")]


def rows(text: str) -> list[list[str]]:
    """The cells of a page's tables, the heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]


REFERENCE = (DOCS / "reference/cli.md").read_text()
FAILURES = rows((DOCS / "failures.md").read_text())[1:]


@pytest.mark.parametrize("row", FAILURES, ids=lambda row: row[0][:40])
def test_what_happens_when_something_fails_is_shown_by_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 5
    named = re.fullmatch(r"`([\w/.]+)::(\w+)`", row[-1].strip())
    assert named is not None, row[-1]
    assert re.search(rf"\b(def|fn) {named[2]}\b", (ROOT / named[1]).read_text())


def named_in(part: object) -> Iterator[str]:
    match part:
        case str():
            yield part
        case dict():
            for value in part.values():
                yield from named_in(value)
        case list():
            for value in part:
                yield from named_in(value)


def test_every_page_is_in_the_contents() -> None:
    named = list(named_in(book.contents((DOCS / "README.md").read_text())))
    assert len(named) == len(set(named))
    assert set(named) == {str(page.relative_to(DOCS)) for page in PAGES} | {book.COMMANDS}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text()
    if page in PAGES:
        book.without_outside_links(text, page)
    for link in re.findall(r"\]\(([^)\s:]+)\)", text):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """What a link may name in a page: of each heading what both the book (mkdocs) and the repository's page
    make of it. One that is there twice has a number, in each its own way.
    """
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found[words.replace(" ", "-")] += 1
    return frozenset(name for name, count in found.items() if count == 1 and _in_both(name))


def _in_both(name: str) -> bool:
    """mkdocs joins dashes that follow each other, and leaves out what is not ASCII."""
    return name.isascii() and "--" not in name


def test_an_anchor_is_a_heading_s_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# `a.toml`: the Node\n\n## Twice\n## [Twice](x.md)\n```\n# no\n```\n## A - b\n### x_y-z\n# Är\n"
    )
    assert anchors(page) == {"atoml-the-node", "x_y-z"}


def test_a_link_out_of_the_book_keeps_its_words_and_one_to_nothing_is_an_error() -> None:
    page = DOCS / "reference/x.md"
    assert (
        book.without_outside_links("see [the `unit`](../../LICENSE), [x](y.md#z)", page)
        == "see the `unit`, [x](y.md#z)"
    )
    with pytest.raises(ValueError, match=r"reference/x\.md links to \.\./\.\./NOTHING"):
        book.without_outside_links("[it](../../NOTHING)", page)


def test_the_reference_names_every_command() -> None:
    for page in manual.pages():
        if page.children or page.name == "blockpaird":
            continue
        *above, name = page.name.split()[1:]
        # "`cluster init …`", or "`bundle list`, `show`" and the like.
        assert re.search(rf"`({' '.join([*above, name])}|{name})\b", REFERENCE), page.name


OPTIONS = {
    page.name.removeprefix("blockpair "): set(
        re.findall(r"--[a-z-]+", " ".join(name for name, _ in page.options))
    )
    for page in manual.pages()
}
LEAVES = {page.name.removeprefix("blockpair ") for page in manual.pages() if not page.children} - {
    "blockpaird"
}


def commands_of(cell: str) -> list[str]:
    """The commands that a row of the reference is about: "`bundle list`, `show NAME`" are two of a group."""
    found: list[str] = []
    for words in (span.split() for span in re.findall(r"`([^`]+)`", cell)):
        group_ = found[-1].rpartition(" ")[0] if found else ""
        tries = [" ".join(words[:end]) for end in range(len(words), 0, -1)]
        known = [one for one in (*tries, *(f"{group_} {one}".strip() for one in tries)) if one in OPTIONS]
        assert known, f"{cell}: there is no command {words[0]}"
        found.append(known[0])
    return found


COMMAND_ROWS = rows(REFERENCE.partition("| Command | ")[2].partition("\n## ")[0])


@pytest.mark.parametrize("row", COMMAND_ROWS, ids=lambda row: row[0][:40])
def test_the_reference_names_no_option_that_its_command_has_not(row: list[str]) -> None:
    about = commands_of(row[0])
    known = {"--json"}.union(
        *(
            its
            for name, its in OPTIONS.items()
            if name in about or name.startswith(tuple(f"{a} " for a in about))
        )
    )
    named = re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(re.findall(r"`([^`]+)`", " ".join(row))))
    assert set(named) <= known


def test_every_command_but_one_takes_json() -> None:
    told = re.search(r"Every command but `([a-z ]+)` takes `--json`", REFERENCE)
    assert told is not None
    assert {name for name in LEAVES if "--json" not in OPTIONS[name]} == {told[1]}


def test_the_reference_has_every_state_that_can_be_waited_for() -> None:
    part = REFERENCE.partition("## States of `wait`\n")[2].partition("\n## ")[0]
    # A state, or states, and what they mean; between dots.
    told = [span for each in part.split(" · ") for span in re.findall(r"`(\w+)`", each.partition(":")[0])]
    assert sorted(told) == sorted(CONDITIONS)


def test_the_commands_own_page_has_their_options() -> None:
    text = book.commands()
    for page in manual.pages():
        assert f"## `{page.name}`" in text
        assert all(f"`{option}`".replace("|", "\\|") in text for option, _ in page.options)


def parse(words: list[str]) -> None:
    """Raises what click does for a command line that it does not understand; nothing is carried out."""
    context: click.Context | None = None
    command: click.Command | None = group
    name: str | None = "blockpair"
    while command is not None:
        context = command.make_context(name, words, parent=context)
        if not isinstance(command, click.Group):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


# At the begin of a line of a code block, maybe behind a prompt, sudo or a variable, and behind "&&".
_COMMAND = re.compile(r"(?:^ {4,}|&& )(?:\w+# *)?(?:sudo )?(?:\w+=\S+ )*blockpair (?=[a-z-])([^|&;#<>`]*)")
COMMANDS = [
    (str(page.relative_to(ROOT)), match[1].removesuffix("\\").strip())
    for page in (*PAGES, ROOT / "README.md", ROOT / "vagrant/README.md")
    for line in page.read_text().splitlines()
    if line.startswith("    ")
    for match in _COMMAND.finditer(line)
    if "$" not in match[1]
]


def test_every_command_of_the_book_is_one() -> None:
    assert len(COMMANDS) > 60
    wrong = []
    for page, command in COMMANDS:
        try:
            parse(shlex.split(command))
        except click.exceptions.Exit:
            pass  # it has --help
        except click.UsageError as error:
            wrong.append(f"{page}: blockpair {command}: {error.format_message()}")
    assert wrong == []
