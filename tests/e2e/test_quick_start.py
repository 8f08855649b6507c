"""The quick start on one machine, word for word: its code blocks are what runs.

Takes a while, so it runs where it is asked for: ``./scripts/docs test``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/quick-start.md"
# What stands in the way of running it again: this checkout is set up, or nothing would run this.
_DONE = "./scripts/setup"
# In namespaces of its own: its /tmp, its ports, its processes, which end with it.
_OWN = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c")
_BEFORE = f"""\
set -exm
mount -t tmpfs own /tmp
ip link set lo up
mkdir /tmp/checkout && cd /tmp/checkout
ln -s {ROOT}/.venv .venv
"""


def blocks(title: str) -> list[str]:
    """The code blocks under a heading, up to the next one."""
    section = re.split(r"(?m)^#+ ", PAGE.read_text().partition(f" {title}\n")[2])[0]
    found: list[list[str]] = [[]]
    for line in section.splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif line and found[-1]:
            found.append([])
    return ["\n".join(lines) + "\n" for lines in found if lines]


def script() -> str:
    """All of it, in order, and nothing between: where something takes a while, the page waits."""
    [make, use] = blocks("On one machine, to look at it")
    [witness] = blocks("With a witness")
    [back] = blocks("The lost node comes back")
    assert make.startswith(f"{_DONE}\n") and "some-image" in use
    make = make.removeprefix(f"{_DONE}\n")
    # A status that tells of something degraded ends with 4: that is no failure here.
    text = make + "truncate -s 1G some-image && mkfs.ext4 -q some-image\n" + use + witness + back
    return re.sub(r"(?m)(\bblockpair status(?! --json)[^\n|#]*)", r"\1 || [ $? = 4 ] ", text)


@pytest.mark.skipif(not os.environ.get("BLOCKPAIR_QUICK_START"), reason="run ./scripts/docs test")
@pytest.mark.timeout(900)
def test_word_for_word() -> None:
    for program in ("unshare", "nbdcopy", "mkfs.ext4"):
        assert shutil.which(program), f"there is no {program}: run ./scripts/setup --for test"
    environment = {**os.environ, "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run(
        [*_OWN, _BEFORE + script()], env=environment, capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
