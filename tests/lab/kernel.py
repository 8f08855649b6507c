"""The lab's kernel: Debian's User-Mode Linux, unpacked into a cache folder.

User-Mode Linux is a Linux kernel built as an ordinary program. Debian packages one together with its modules
(nbd, md, dm, ext4, xfs, fuse and more). Nothing is installed on the host: the package is downloaded and
unpacked once, and its module index is written beside it so that ``modprobe`` finds the modules.

Run as a program, it fetches the kernel and prints where it is::

    python3 -m tests.lab.kernel
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests import unpacked

PACKAGE = "user-mode-linux"
_WHOLE_STATE = Path(__file__).with_name("whole_state.c")
KernelUnavailable = unpacked.PackageUnavailable


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
    """Where the unpacked kernel lives: ``uml`` in the cache folder."""
    return unpacked.cache_dir() / "uml"


def cached(where: Path | None = None) -> Kernel | None:
    """The kernel in the cache folder; None where there is none, or half of one.

    Raises `KernelUnavailable`.
    """
    root = where or cache_dir()
    release = unpacked.stamp(root)
    if release is None:
        return None
    shim = root.parent / f"whole-state-{hashlib.sha256(_WHOLE_STATE.read_bytes()).hexdigest()[:16]}.so"
    if not needs_shim(Path("/proc/cpuinfo").read_text()):
        return Kernel(root, release)
    if not shim.exists():
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="uml-build-") as scratch:
            made = Path(scratch) / shim.name
            build = ["cc", "-shared", "-fPIC", "-O2", "-o", str(made), str(_WHOLE_STATE), "-ldl"]
            unpacked.run(build, root.parent, "check that the C compiler works: apt-get install gcc")
            made.rename(shim)
    return Kernel(root, release, shim)


def needs_shim(processors: str) -> bool:
    """Whether the processors of /proc/cpuinfo have more state than User-Mode Linux keeps (whole_state.c)."""
    return "amx_tile" in processors.split()


def ensure(where: Path | None = None) -> Kernel:
    """The cached kernel, fetched first where it is missing (about 40 MB, a few seconds).

    Safe to call from several processes at once. Raises `KernelUnavailable`.
    """
    root = where or cache_dir()
    unpacked.ensure(PACKAGE, root, _with_module_index)
    made = cached(root)
    assert made is not None
    return made


def _with_module_index(root: Path) -> str:
    release = next((root / "usr/lib/uml/modules").iterdir()).name
    modules = root / "lib/modules"
    modules.mkdir(parents=True)
    (root / "usr/lib/uml/modules" / release).rename(modules / release)
    unpacked.run(["depmod", "-b", str(root), release], root)
    return release


if __name__ == "__main__":
    try:
        kernel = ensure()
    except KernelUnavailable as error:
        sys.exit(f"lab kernel: {error}")
    print(f"{kernel.root}: Linux {kernel.release}")
