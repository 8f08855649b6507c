"""The lab's kernel: Debian's User-Mode Linux, unpacked into a cache folder.

User-Mode Linux is a Linux kernel built as an ordinary program. Debian packages one together with its modules
(nbd, md, dm, ext4, xfs, fuse and more). Nothing is installed on the host: the package is downloaded and
unpacked once, and its module index is written beside it so that ``modprobe`` finds the modules.

Run as a program, it fetches the kernel and prints where it is::

    python3 tests/lab/kernel.py
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "user-mode-linux"
_STAMP = ".complete"


class KernelUnavailable(RuntimeError):
    """The kernel is not cached and cannot be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked User-Mode Linux.

    ``root`` is laid out like a file system root: ``modprobe -d root`` and ``usr/bin/linux.uml`` work below
    it.
    """

    root: Path
    release: str

    @property
    def program(self) -> Path:
        return self.root / "usr/bin/linux.uml"


def cache_dir() -> Path:
    """Where the unpacked kernel lives: ``$BLOCKPAIR_CACHE/uml``, by default below ``~/.cache/blockpair``."""
    base = os.environ.get("BLOCKPAIR_CACHE")
    return (Path(base) if base else Path.home() / ".cache/blockpair") / "uml"


def cached(where: Path | None = None) -> Kernel | None:
    """The kernel in the cache folder; None where there is none, or half of one."""
    root = where or cache_dir()
    stamp = root / _STAMP
    if not stamp.is_file():
        return None
    return Kernel(root, stamp.read_text().strip())


def ensure(where: Path | None = None) -> Kernel:
    """The cached kernel, fetched first where it is missing (about 40 MB, a few seconds).

    Safe to call from several processes at once. Raises `KernelUnavailable`.
    """
    root = where or cache_dir()
    found = cached(root)
    if found is not None:
        return found
    for tool, package in (("apt-get", "apt"), ("dpkg", "dpkg"), ("depmod", "kmod")):
        if shutil.which(tool, path=_PATH) is None:
            raise KernelUnavailable(
                f"no kernel in {root} and no '{tool}' to fetch one with: "
                f"install the package {package} on a Debian host, or point BLOCKPAIR_CACHE at a filled cache"
            )
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.parent / "uml.lock"):
        found = cached(root)
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="uml-fetch-") as scratch:
            release = _unpack(Path(scratch))
            # The rename publishes a whole tree or none, whenever this process is killed.
            shutil.rmtree(root, ignore_errors=True)
            (Path(scratch) / "root").rename(root)
        return Kernel(root, release)


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unpack(scratch: Path) -> str:
    try:
        _run(["apt-get", "-q", "download", PACKAGE], scratch)
    except KernelUnavailable:
        # A fresh machine has no package lists yet.
        _run(["apt-get", "-q", "update"], scratch)
        _run(["apt-get", "-q", "download", PACKAGE], scratch)
    archive = next(scratch.glob(f"{PACKAGE}_*.deb"))
    root = scratch / "root"
    _run(["dpkg", "-x", str(archive), str(root)], scratch)
    release = next((root / "usr/lib/uml/modules").iterdir()).name
    modules = root / "lib/modules"
    modules.mkdir(parents=True)
    (root / "usr/lib/uml/modules" / release).rename(modules / release)
    _run(["depmod", "-b", str(root), release], scratch)
    (root / _STAMP).write_text(release + "\n")
    return release


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": _PATH, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise KernelUnavailable(
            f"'{' '.join(command)}' failed ({done.returncode}): {done.stderr.strip()[-400:]}; "
            "check that Debian's package archive can be reached"
        )


if __name__ == "__main__":
    try:
        kernel = ensure()
    except KernelUnavailable as error:
        sys.exit(f"lab kernel: {error}")
    print(f"{kernel.root}: Linux {kernel.release}")
