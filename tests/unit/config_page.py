"""docs/reference/config.md as data, and the keys of a configuration file as its forms have them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import NODEFAULT, inspect

from blockpair.units import parse_duration, parse_size

DOCS = Path(__file__).parents[2] / "docs"
# What stands in the page for the names that are keys of a table.
_NAMED = {
    "node": "NODE",
    "on": "NODE",
    "fence": "NODE",
    "resource": "NAME",
    "webhook": "NAME",
    "parts": "KIND",
    "adopt": "ARRAY",
}
_DEVICE = "a device's "
_TOKEN = re.compile(r"`([^`]+)`")
_NUMBER = r"(\d+(?:\.\d+)?(?:ms|s|m|h|K|M|G)?)(?![\w.]*\w)"


@dataclass(frozen=True)
class Key:
    """A key of a file: what it takes, and its value where it is left out; ``required``: it may not be."""

    type: inspect.Type
    required: bool
    default: Any

    @property
    def choices(self) -> set[Any]:
        """The values that it may have, where they are listed; else none."""
        options = self.type.types if isinstance(self.type, inspect.UnionType) else (self.type,)
        return {value for one in options if isinstance(one, inspect.LiteralType) for value in one.values}

    @property
    def measured(self) -> bool:
        """Whether it is a number, a duration, a size or a list: something that has bounds."""
        if isinstance(self.type, (inspect.IntType, inspect.FloatType, inspect.ListType)):
            return True
        options = self.type.types if isinstance(self.type, inspect.UnionType) else ()
        number = any(isinstance(one, (inspect.IntType, inspect.FloatType)) for one in options)
        return number or (isinstance(self.default, str) and amount(self.default) is not None)


def keys(form: type[Any]) -> dict[str, Key]:
    """Every key of a file of that form, as the page calls it: ``fence.NODE.delay``, ``a device's agent``."""
    root = inspect.type_info(form)
    assert isinstance(root, inspect.StructType)
    return dict(_below(root, ""))


def _below(table: inspect.StructType, prefix: str) -> Iterator[tuple[str, Key]]:
    for field in table.fields:
        name = prefix + field.encode_name
        default = field.default if field.default is not NODEFAULT else None
        if field.default_factory is not NODEFAULT:
            default = field.default_factory()
        # A table that may be left out.
        found = field.type
        if isinstance(found, inspect.UnionType):
            structs = [one for one in found.types if isinstance(one, inspect.StructType)]
            found = structs[0] if structs else found
        match found:
            case inspect.StructType():
                yield from _below(found, f"{name}.")
            case inspect.DictType(value_type=inspect.StructType() as each):
                yield from _below(each, f"{name}.{_NAMED[field.encode_name]}.")
            case inspect.ListType(item_type=inspect.StructType() as each):
                yield from _below(each, f"{name}.")
            case inspect.ListType(item_type=inspect.ListType(item_type=inspect.StructType() as each)):
                yield name, Key(found, field.required, default)
                yield from _below(each, _DEVICE)
            case inspect.DictType() if field.encode_name in _NAMED:
                yield f"{name}.{_NAMED[field.encode_name]}", Key(found, field.required, default)
            case _:
                yield name, Key(found, field.required, default)


@dataclass(frozen=True)
class Row:
    """A row of a table of keys."""

    keys: tuple[str, ...]
    default: str
    meaning: str

    @property
    def defaults(self) -> list[Any]:
        """The values in its second column."""
        return [tomllib.loads(f"x = {text}")["x"] for text in _TOKEN.findall(self.default)]

    @property
    def choices(self) -> set[Any]:
        """The values that it names, of the kind that are chosen from."""
        told = _TOKEN.findall(f"{self.default} {self.meaning}")
        return {json.loads(text) for text in told if re.fullmatch(r'"[^"]*"|true|false', text)}


def rows(page: str, heading: str) -> list[Row]:
    """Those of the first table of keys under ``heading``; a paragraph that goes on about a key ("`KEY` is one
    of: …") counts as part of its row.
    """
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = text.partition("| Key | Default | Meaning |\n| --- | --- | --- |\n")[2].splitlines()
    found = []
    for line in lines:
        if not line.startswith("| "):
            break
        first, default, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        named = names(first)
        for name in named:
            if more := re.search(
                rf"^`{re.escape(name)}` is one of: (.*?)\n\n", text, re.DOTALL | re.MULTILINE
            ):
                meaning = f"{meaning} {more[1]}"
        found.append(Row(named, default, meaning))
    return found


def names(cell: str) -> tuple[str, ...]:
    """The keys of a row's first column; one that begins with a dot is beside the first."""
    prefix = _DEVICE if cell.startswith(_DEVICE) else ""
    first, *others = _TOKEN.findall(cell)
    above = first.rpartition(".")[0]
    return (prefix + first, *(prefix + (above + one if one.startswith(".") else one) for one in others))


@dataclass(frozen=True)
class Bounds:
    """From ``least`` to ``most``, as the page writes them; None: the page has no such bound. ``open``:
    ``least`` itself is out. ``either``: nothing but the two.
    """

    least: str | None
    most: str | None
    open: bool = False
    either: bool = False


def bounds(meaning: str) -> Bounds | None:
    """The first bounds that the text of a row states."""
    if found := re.search(rf"more than {_NUMBER} and at most {_NUMBER}", meaning):
        return Bounds(found[1], found[2], open=True)
    if found := re.search(rf"{_NUMBER} to {_NUMBER}", meaning):
        return Bounds(found[1], found[2])
    if found := re.search(rf"{_NUMBER} or {_NUMBER}", meaning):
        return Bounds(found[1], found[2], either=True)
    if found := re.search(rf"at most {_NUMBER}", meaning):
        return Bounds(None, found[1])
    if found := re.search(rf"more than {_NUMBER}", meaning):
        return Bounds(found[1], None, open=True)
    return None


def amount(text: str) -> float | None:
    """Seconds, or bytes, of a text with a unit."""
    for parse in (parse_duration, parse_size):
        if re.fullmatch(r"[\d.]+(ms|s|m|h)" if parse is parse_duration else r"\d+[KMGT]", text):
            return float(parse(text))
    return None
