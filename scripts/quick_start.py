"""What the quick start has a reader type on one machine: docs/quick-start.md, as a script."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/quick-start.md"
# The page's first line: it is apart, for it alone needs a network.
SETUP = "./scripts/setup\n"
_MAKE, _WITNESS, _BACK = "On one machine, to look at it", "With a witness", "The lost node comes back"
# The image that a reader has and the page does not: any will do.
_IMAGE = "truncate -s 1G some-image && mkfs.ext4 -q some-image\n"


def section(title: str) -> str:
    """The text under a heading, up to the next one; ``ValueError`` if there is none."""
    _, found, rest = PAGE.read_text().partition(f" {title}\n")
    if not found:
        raise ValueError(f"{PAGE} has no heading {title!r}: name it here as it is called there")
    return re.split(r"(?m)^#+ ", rest)[0]


def blocks(title: str) -> list[str]:
    """The code blocks under a heading."""
    found: list[list[str]] = [[]]
    for line in section(title).splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif line and found[-1]:
            found.append([])
    return ["\n".join(lines) + "\n" for lines in found if lines]


def packages() -> list[str]:
    """The Debian packages that the page tells a reader to have beside what `SETUP` installs."""
    return re.findall(r"Debian's `([a-z0-9][a-z0-9+.-]+)`", section(_MAKE))


def commands() -> str:
    """All that follows `SETUP`, for bash, in order and with nothing between: where something takes a while,
    the page waits. ``ValueError`` if the page has other blocks than are known here.
    """
    make, use, *more = blocks(_MAKE)
    if not make.startswith(SETUP) or "some-image" not in use or more:
        raise ValueError(f"{PAGE}: {_MAKE!r} has other code blocks than scripts/quick_start.py knows")
    [witness], [back] = blocks(_WITNESS), blocks(_BACK)
    text = make.removeprefix(SETUP) + _IMAGE + use + witness + back
    # A status that tells of something degraded ends with 4: that is no failure here.
    text = re.sub(r"(?m)(\bblockpair status(?! --json)[^\n|#]*)", r"\1 || [ $? = 4 ] ", text)
    # It stops at the first failure, and has jobs, as a reader's shell has.
    return f"set -exm\n{text}"
