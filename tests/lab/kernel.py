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
import hashlib
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
_WHOLE_STATE = Path(__file__).with_name("whole_state.c")


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
    preloaded: Path | None = None

    @property
    def command(self) -> list[str]:
        """What starts it, without its arguments."""
        shim = ["env", f"LD_PRELOAD={self.preloaded}"] if self.preloaded else []
        return [*shim, str(self.root / "usr/bin/linux.uml")]


def cache_dir() -> Path:
    """Where the unpacked kernel lives: ``$BLOCKPAIR_CACHE/uml``, by default below ``~/.cache/blockpair``."""
    base = os.environ.get("BLOCKPAIR_CACHE")
    return (Path(base) if base else Path.home() / ".cache/blockpair") / "uml"


def cached(where: Path | None = None) -> Kernel | None:
    """The kernel in the cache folder; None where there is none, or half of one.

    Raises `KernelUnavailable`.
    """
    root = where or cache_dir()
    stamp = root / _STAMP
    if not stamp.is_file():
        return None
    shim = root.parent / f"whole-state-{hashlib.sha256(_WHOLE_STATE.read_bytes()).hexdigest()[:16]}.so"
    if not needs_shim(Path("/proc/cpuinfo").read_text()):
        return Kernel(root, stamp.read_text().strip())
    if not shim.exists():
        if shutil.which("cc", path=_PATH) is None:
            raise KernelUnavailable(f"a kernel in {root} that needs a C compiler here: apt-get install gcc")
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="uml-build-") as scratch:
            made = Path(scratch) / shim.name
            build = ["cc", "-shared", "-fPIC", "-O2", "-o", str(made), str(_WHOLE_STATE), "-ldl"]
            _run(build, root.parent, "check that the C compiler works")
            made.rename(shim)
    return Kernel(root, stamp.read_text().strip(), shim)


def needs_shim(processors: str) -> bool:
    """Whether the processors of /proc/cpuinfo have more state than User-Mode Linux keeps (whole_state.c)."""
    return "amx_tile" in processors.split()


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
            _unpack(Path(scratch))
            # The rename publishes a whole tree or none, whenever this process is killed.
            shutil.rmtree(root, ignore_errors=True)
            (Path(scratch) / "root").rename(root)
        made = cached(root)
        assert made is not None
        return made


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unpack(scratch: Path) -> None:
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


def _run(
    command: list[str], cwd: Path, remedy: str = "check that Debian's package archive can be reached"
) -> None:
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
            f"'{' '.join(command)}' failed ({done.returncode}): {done.stderr.strip()[-400:]}; {remedy}"
        )


if __name__ == "__main__":
    try:
        kernel = ensure()
    except KernelUnavailable as error:
        sys.exit(f"lab kernel: {error}")
    print(f"{kernel.root}: Linux {kernel.release}")
