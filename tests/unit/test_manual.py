"""Man pages and completions, made from the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import manual
import pytest

PAGES = {page.title: page for page in manual.pages()}


def test_every_command_has_a_page_with_all_that_its_help_says() -> None:
    assert {"blockpair", "blockpaird", "blockpair-status", "blockpair-cluster-init"} <= set(PAGES)
    for page in PAGES.values():
        text = manual.man(page)
        plain = text.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\&", "")
        for option, what in page.options:
            assert option in plain and " ".join(what.split()) in plain
        assert all(line in plain for line in page.examples)
        assert all(child.title in PAGES and child.title in plain for child in page.children)
        # No line of ours is a request.
        requests = {line.split()[0] for line in text.splitlines() if line.startswith(".")}
        assert requests <= {".TH", ".SH", ".PP", ".TP", ".nf", ".fi"}
        assert "\b" not in text


def test_man_can_read_them(tmp_path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("there is no groff")
    manual.write(tmp_path)
    paths = sorted((tmp_path / "man").iterdir())
    assert len(paths) == len(PAGES)
    command: list[str | Path] = [groff, "-man", "-ww", "-k", "-Kutf8", "-Tutf8", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""


def completed(words: str, at: int, shell: str = "bash", **env: str) -> list[str]:
    """What the program answers to a shell that asks for the word number ``at``."""
    environment = {
        **os.environ,
        "_BLOCKPAIR_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(at),
    }
    command = [sys.executable, "-m", "blockpair.cli.main"]
    done = subprocess.run(
        command, env=environment | env, capture_output=True, text=True, check=False, timeout=60
    )
    return [line.rpartition(",")[2] for line in done.stdout.split()]


def test_commands_and_resources_are_completed(tmp_path: Path) -> None:
    assert completed("blockpair switch", 1) == ["switchover"]
    resources = tmp_path / "config/resources"
    resources.mkdir(parents=True)
    for name in ("data", "dump", "mail"):
        (resources / f"{name}.toml").touch()
    for command in ("promote", "status"):
        assert completed(f"blockpair {command} d", 2, BLOCKPAIR_DIR=str(tmp_path)) == ["data", "dump"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_understands_its_completion(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell}")
    file = tmp_path / "completion"
    file.write_text(manual.completion(shell))
    subprocess.run([program, "-n", file], check=True, timeout=60)
    assert re.search(r"_BLOCKPAIR_COMPLETE\W+" + shell, file.read_text()) or shell == "fish"
