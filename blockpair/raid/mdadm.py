"""Runs mdadm, and reads what it says for programs (``--export``)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from blockpair.errors import BlockpairError, ErrorKind

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_SECONDS = 120
PACKAGES = {"mdadm": "mdadm", "wipefs": "util-linux", "smartctl": "smartmontools"}


@dataclass(frozen=True)
class Superblock:
    """What a device says of the array it belongs, or belonged, to."""

    uuid: str
    name: str
    events: int


def run(arguments: Sequence[str], *, ending: Sequence[int] = (0,)) -> str:
    """A program's standard output. Raises `BlockpairError` that says what it said, if it is not there or ends
    with another code than ``ending``.
    """
    program = shutil.which(arguments[0], path=_PATH)
    if program is None:
        package = PACKAGES.get(arguments[0], arguments[0])
        raise BlockpairError(
            ErrorKind.FAILED, f"there is no {arguments[0]} on this node", f"apt-get install {package}"
        )
    try:
        done = subprocess.run(
            [program, *arguments[1:]],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
            text=True,
            errors="backslashreplace",
            env={"PATH": _PATH, "LC_ALL": "C", "HOME": os.devnull},
        )
    except subprocess.TimeoutExpired:
        raise BlockpairError(
            ErrorKind.TIMEOUT,
            f"`{' '.join(arguments)}` did not end within {_SECONDS} s",
            "look for a disk that does not answer: dmesg",
        ) from None
    if done.returncode not in ending:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise BlockpairError(
            ErrorKind.FAILED, f"`{' '.join(arguments)}` failed: {said}", "what the kernel says of it: dmesg"
        )
    return done.stdout


def parse_export(text: str) -> dict[str, str]:
    """The lines ``KEY=VALUE`` of ``mdadm --export``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def detail(device: str) -> dict[str, str]:
    """What mdadm knows of a running array, by its path: MD_UUID, MD_NAME, MD_DEVNAME … Raises
    `BlockpairError`.
    """
    return parse_export(run(["mdadm", "--detail", "--export", device]))


def examine(device: str) -> Superblock | None:
    """The md superblock on a device; None where there is none."""
    try:
        found = parse_export(run(["mdadm", "--examine", "--export", device]))
    except BlockpairError as error:
        if error.kind is ErrorKind.FAILED and "no mdadm" not in error.message:
            return None
        raise
    if "MD_UUID" not in found:
        return None
    events = found.get("MD_EVENTS", "")
    return Superblock(found["MD_UUID"], array_name(found), int(events) if events.isdigit() else 0)


def array_name(found: dict[str, str]) -> str:
    """The array's name below /dev/md, or else in its superblock without the host; may be empty."""
    return found.get("MD_DEVNAME") or found.get("MD_NAME", "").rpartition(":")[2]
