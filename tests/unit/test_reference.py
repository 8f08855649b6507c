"""The reference of the formats is the engine's own text; the engine's tests compare that with its code. That
of the calls is made from what a daemon says of its methods: of results, what the methods are annotated with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reference
from msgspec import Struct

from blockpair.daemon.changes import change
from blockpair.daemon.method_list import MethodList
from blockpair.rpc.described import describe
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller
from blockpair.status.report import StatusReport

PAGES = reference.PAGES
MAKE = "run: python scripts/reference.py"


def test_the_protocol_s_page_is_made_from_the_code() -> None:
    page = (PAGES / "wire.md").read_text()
    assert page == reference.wire(reference.kinds_of(page)), MAKE
    assert "`header_check`" in page and "**VerifyChunk**: XXH3-128" in page


def test_the_disk_s_page_is_made_from_the_code() -> None:
    page = (PAGES / "disk.md").read_text()
    assert page == reference.disk(), MAKE
    assert "`blkpair` and a zero byte" in page and "`BPpg`" in page


class Part(Struct):
    """One."""

    size: int


class Whole(Struct):
    """``parts`` of it."""

    parts: list[Part]
    ends: tuple[int, Part] | None = None


def other_part() -> type[Struct]:
    """Another form of the same name."""

    class Part(Struct):
        """Other."""

        name: str

    return Part


OtherPart = other_part()


class Another(Struct):
    """Has another part."""

    part: OtherPart  # type: ignore[valid-type]


async def whole(_: Caller, __: NoParams) -> Whole: ...  # type: ignore[empty-body]


async def another(_: Caller, __: NoParams) -> Another | Whole: ...  # type: ignore[empty-body]


async def changed(_: NoParams) -> Whole: ...  # type: ignore[empty-body]


async def unpublished(_: Caller, __: NoParams) -> Any: ...


def page_of(**runs: Callable[..., Any]) -> str:
    described = [describe(name, NoParams, run, anyone=True) for name, run in runs.items()]
    return reference.rpc(MethodList(described, []))


def test_a_result_is_told_as_the_method_is_annotated() -> None:
    page = page_of(whole=whole, changed=change("changed", NoParams, changed).run, unpublished=unpublished)
    for name in ("whole", "changed"):
        assert f"### `{name}`\n\n*Anyone.* No parameters.\n\nResult: [`Whole`](#object-whole).\n" in page
    assert "### `unpublished`\n\n*Anyone.* No parameters.\n\n## Between nodes" in page
    assert "### Object `Whole`\n\n`parts` of it.\n" in page
    assert "| `parts` | list of [`Part`](#object-part) |\n" in page
    assert "| `ends` | list of integer, [`Part`](#object-part) or null |\n" in page
    assert "### Object `Part`\n\nOne.\n\n| Field | |\n| --- | --- |\n| `size` | integer |\n" in page


def test_two_forms_of_one_name_are_told_apart() -> None:
    page = page_of(whole=whole, another=another)
    assert "Result: [`Another`](#object-another) or [`Whole`](#object-whole).\n" in page
    assert "### Object `Part`\n\nOne.\n" in page and "### Object `Part of Another`\n\nOther.\n" in page
    assert "| `part` | [`Part of Another`](#object-part-of-another) |\n" in page


def test_forms_of_the_status_are_told_on_its_page() -> None:
    async def status(_: Caller, __: NoParams) -> StatusReport: ...  # type: ignore[empty-body]

    page = page_of(status=status)
    assert "Result: [`StatusReport`](status-json.md).\n" in page and "### Object `StatusReport`" not in page
