"""Debian packages, unpacked into a cache folder: nothing is installed here, and no service begins."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_STAMP = ".complete"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class PackageUnavailable(RuntimeError):
    """A package is not cached and cannot be fetched; the message says why and what to do."""


def cache_dir() -> Path:
    """Where unpacked packages are kept: ``$BLOCKPAIR_CACHE``, by default ``~/.cache/blockpair``."""
    base = os.environ.get("BLOCKPAIR_CACHE")
    return Path(base) if base else Path.home() / ".cache/blockpair"


def stamp(root: Path) -> str | None:
    """What the finish of a package said; None where it is not there, or half of it."""
    file = root / _STAMP
    return file.read_text().strip() if file.is_file() else None


def ensure(package: str, root: Path, finish: Callable[[Path], str]) -> str:
    """Have ``package`` unpacked at ``root``, fetched first where it is missing; what ``finish`` said, which
    is called once with where it was unpacked.

    Safe to call from several processes at once. Raises `PackageUnavailable`.
    """
    found = stamp(root)
    if found is not None:
        return found
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.with_suffix(".lock")):
        found = stamp(root)
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f"{root.name}-fetch-") as scratch:
            fresh = _unpack(package, Path(scratch))
            found = finish(fresh)
            (fresh / _STAMP).write_text(found + "\n")
            # The rename publishes a whole tree or none, whenever this process is killed.
            shutil.rmtree(root, ignore_errors=True)
            fresh.rename(root)
        return found


def program(package: str, path: str) -> Path:
    """One program of a package, and nothing else of it. Raises `PackageUnavailable`."""
    root = cache_dir() / Path(path).name

    def only_this(fresh: Path) -> str:
        kept = fresh.with_name("kept")
        (fresh / path).rename(kept)
        shutil.rmtree(fresh)
        (fresh / path).parent.mkdir(parents=True)
        kept.rename(fresh / path)
        return package

    ensure(package, root, only_this)
    return root / path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unpack(package: str, scratch: Path) -> Path:
    try:
        run(["apt-get", "-q", "download", package], scratch)
    except PackageUnavailable:
        # A fresh machine has no package lists yet.
        run(["apt-get", "-q", "update"], scratch)
        run(["apt-get", "-q", "download", package], scratch)
    archive = next(scratch.glob(f"{package}_*.deb"))
    run(["dpkg", "-x", str(archive), "root"], scratch)
    return scratch / "root"


def run(
    command: list[str], cwd: Path, remedy: str = "check that Debian's package archive can be reached"
) -> None:
    """Raises `PackageUnavailable` with the end of what it said, and the remedy, unless it ends with 0."""
    if shutil.which(command[0], path=_PATH) is None:
        raise PackageUnavailable(
            f"no '{command[0]}' here: run this on a Debian host that has it, "
            "or point BLOCKPAIR_CACHE at a filled cache"
        )
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": _PATH, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackageUnavailable(
            f"'{' '.join(command)}' failed ({done.returncode}): {done.stderr.strip()[-400:]}; {remedy}"
        )
