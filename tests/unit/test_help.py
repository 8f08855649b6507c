"""Every command's ``--help``, as it is rendered for a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from blockpair.cli.main import group, run


def _all(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Context]]:
    yield context.command_path, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _all(child, click.Context(child, context, info_name=name, terminal_width=80))


COMMANDS = dict(_all(group, click.Context(group, info_name="blockpair", terminal_width=80)))


@pytest.mark.parametrize(
    "path",
    # The witness's are a list of steps on several machines.
    [path for path in COMMANDS if path != "blockpair witness"],
)
def test_examples_are_one_a_line(path: str) -> None:
    context = COMMANDS[path]
    shown = context.get_help().splitlines()
    assert "  Examples:" in shown, "the block begins with \\b on a line of its own"
    start = shown.index("  Examples:") + 1
    lines = shown[start : shown.index("", start)]
    assert lines
    for line in lines:
        without_comment = line.partition("   #")[0]
        assert line.startswith("    ") and "blockpair " in without_comment, line
        # In one line there are more only where one follows from the other.
        parts = re.split(r"&&|\||;|ssh \S+", without_comment)
        assert all(len(re.findall(r"\bblockpair (?!bundle-)", part)) <= 1 for part in parts), line


@pytest.mark.parametrize(
    "path", [path for path, at in COMMANDS.items() if isinstance(at.command, click.Group)]
)
def test_no_short_help_is_cut(path: str) -> None:
    context = COMMANDS[path]
    rows = context.get_help().partition("Commands:\n")[2].splitlines()
    assert rows
    assert [row for row in rows if row.endswith("...")] == []


@pytest.mark.parametrize(
    ("typed", "meant"), [("stauts", "status"), ("switchovr", "switchover"), ("xyz", None)]
)
def test_a_typing_mistake_is_told(typed: str, meant: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([typed, "r0"]) == 2
    told = capsys.readouterr().err
    assert typed in told and ("did you mean" in told) is (meant is not None)
    assert meant is None or f"did you mean '{meant}'?" in told
