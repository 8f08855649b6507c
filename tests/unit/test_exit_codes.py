"""docs/reference/exit-codes.md has every code, and each command that ends with one of its own accord."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import FunctionType
from typing import Any

import manual
import pytest

from blockpair.cli.main import group
from blockpair.errors import ExitCode

PAGE = Path(__file__).parents[2] / "docs/reference/exit-codes.md"
ROWS = {int(code): text for code, text in re.findall(r"^\| (\d) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)}
Place = tuple[str, str]
"""A function: its module and its name."""


def test_the_page_the_manual_and_the_help_have_every_code() -> None:
    assert list(ROWS) == sorted(ExitCode)
    page = next(page for page in manual.pages() if page.name == "blockpair")
    status = manual.man(page).partition(".SH EXIT STATUS\n")[2].partition(".SH ")[0]
    assert [int(code) for code in re.findall(r"^\W*(?:\\fB)?(\d)\b", status, re.MULTILINE)] == sorted(
        ExitCode
    )
    told = (group.help or "").partition("Exit codes: ")[2].partition("\n\n")[0]
    assert [int(code) for code in re.findall(r"\b\d\b", told)] == sorted(ExitCode)


def test_the_commands_that_end_with_a_code_of_their_own_accord_are_the_page_s() -> None:
    chosen = {name: codes(at) for name, at in commands()}
    for code in (ExitCode.FAILED, ExitCode.UNSAFE, ExitCode.DEGRADED):
        assert told(code, chosen) == {name for name, own in chosen.items() if code in own}, code
    assert not any({ExitCode.USAGE, ExitCode.NO_DAEMON} & own for own in chosen.values())


def told(code: int, commands: dict[str, Any]) -> set[str]:
    """The commands that a row names; a group stands for all of its own."""
    named = re.findall(r"`([a-z -]+)`", ROWS[code])
    return {name for name in commands for one in named if name == one or name.startswith(f"{one} ")}


def commands() -> Iterator[tuple[str, Place]]:
    """Every command, and the function that carries it out."""
    for page in manual.pages():
        function = inspect.unwrap(page.context.command.callback or group)
        if not page.children and page.name != "blockpaird":
            yield page.name.removeprefix("blockpair "), (function.__module__, function.__name__)


def codes(start: Place) -> set[int]:
    """The codes that are named in a function, and in those of blockpair that it names, and so on. What an
    error that is raised ends with is not among them.
    """
    seen: set[Place] = set()
    found: set[int] = set()
    left = [start]
    while left:
        at = left.pop()
        if at not in seen:
            seen.add(at)
            own, others = _named_in(*at)
            found |= own
            left += others
    return found


@functools.cache
def _named_in(module: str, name: str) -> tuple[frozenset[int], tuple[Place, ...]]:
    tree = _functions(module).get(name)
    if tree is None:
        return frozenset(), ()
    known = dict(vars(importlib.import_module(module)))
    for node in ast.walk(tree):
        # Many commands import what they need when they need it.
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("blockpair"):
            inside = importlib.import_module(node.module)
            known |= {one.asname or one.name: getattr(inside, one.name, None) for one in node.names}
    found: set[int] = set()
    others: list[Place] = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(owner)) if _are_codes(known.get(owner)):
                found.add(int(getattr(known[owner], node.attr)))
            case ast.Call(func=ast.Name(owner)) if _are_codes(known.get(owner)):
                found |= {int(each) for each in known[owner]}
            case ast.Name(used) if isinstance(known.get(used), FunctionType):
                others.append((known[used].__module__, known[used].__name__))
            case _:
                pass
    return frozenset(found), tuple(at for at in others if at[0].startswith("blockpair."))


def _are_codes(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, IntEnum) and "Exit codes" in (value.__doc__ or "")


@functools.cache
def _functions(module: str) -> dict[str, ast.AST]:
    """The functions of a module, by name."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {
        node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("command", "code"), [("may-stop", 3), ("audit run", 1), ("raid scrub stop", 4)])
def test_a_code_is_found_through_what_a_command_calls(command: str, code: int) -> None:
    """In a function of another module, as a value of its own list, and two calls away."""
    assert code in codes(dict(commands())[command])
