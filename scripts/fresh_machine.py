"""The quick start on a fresh machine: a bare Debian, a clone of this tree, and the page's own words; then the
demonstration. Run it by ``scripts/docs test``.

The machine is a folder, and namespaces around each part that runs in it: their mounts and processes end with
the part, however it ends. Of this machine it has the way to packages (a mirror, proxies, certificates) and
the Rust toolchain, which the page has a reader bring. Only the standard library is used: it runs where
nothing is installed yet.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import quick_start

ROOT = quick_start.ROOT
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
_PACKAGES = {"debootstrap": "debootstrap", "ip": "iproute2", "git": "git"}
# What says where packages come from, and whom to trust for it.
_WAY = re.compile(
    r"PIP_(?!CACHE_DIR$)\w+|CARGO_(HTTP|NET|REGISTR|SOURCE)\w+|SSL_CERT_(FILE|DIR)|CURL_CA_BUNDLE|REQUESTS_CA_BUNDLE"
    r"|\w+_PROXY",
    re.IGNORECASE,
)
_WAY_FILES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/ssl/certs",
    "/usr/local/share/ca-certificates",
)
_CHECKOUT = "/root/blockpair"
_TOOLCHAIN = "/opt/rust"
# unshare is to be killed, for it ignores SIGTERM, and with this program: then so is all that it started.
_OWN = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"),
)
# A part that takes longer hangs; a slow mirror, or a processor shared with others, does not.
_LONGEST_S = 45 * 60
_LAST_LINES = 60


class MachineError(Exception):
    """What is wrong, and the remedy."""


def way_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which pip, cargo and their like find packages."""
    return {name: value for name, value in environment.items() if _WAY.fullmatch(name)}


def way_paths(way: Mapping[str, str]) -> list[Path]:
    """The files and folders of this machine that those variables name."""
    words = [word for value in way.values() for word in re.split(r"[\s:]+", value.replace("file://", ""))]
    return [Path(word) for word in words if word.startswith("/") and word.strip("/") and Path(word).exists()]


def toolchain() -> Path:
    """The folder of this machine's Rust, which works wherever it lies as rustup's do."""
    bins = f"{os.environ.get('CARGO_HOME') or Path.home() / '.cargo'}/bin"
    rustc = shutil.which("rustc", path=f"{os.environ.get('PATH', '')}:{bins}")
    if rustc is None:
        raise MachineError(f"no rustc in PATH or {bins}: put it there, or install it (https://rustup.rs)")
    ask = [rustc, "--print", "sysroot"]
    found = Path(subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip())
    if found == Path("/usr") or not (found / "bin/cargo").is_file():
        raise MachineError(
            f"the Rust toolchain in {found} is not one of rustup's: install one (https://rustup.rs)"
        )
    return found


def copy(source: Path, to: Path) -> None:
    """A file, or a folder with all in it; what a link leads to, and nothing where it leads nowhere."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, to, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, to)


class Machine:
    """A bare Debian in ``folder``/work, which is this run's alone; what all of it said goes to ``log``."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.root = self.work / "root"
        self.log = log
        self.way = way_environment(os.environ)
        self.bound: dict[Path, str] = {}

    def bare(self, anew: bool) -> None:
        """The smallest Debian there is: from a mirror the first time, and kept."""
        kept = self.folder / f"{SUITE}.tar"
        self.root.mkdir(parents=True)
        if kept.exists() and not anew:
            self._here(["tar", "-C", str(self.root), "--numeric-owner", "-xpf", str(kept)])
            return
        mirror = os.environ.get("BLOCKPAIR_MIRROR") or MIRROR
        self._here([*_OWN, "debootstrap", "--variant=minbase", SUITE, str(self.root), mirror])
        made = self.work / "new.tar"
        self._here(["tar", "-C", str(self.root), "--numeric-owner", "-cf", str(made), "."])
        made.rename(kept)

    def furnish(self) -> None:
        """What a reader brings: a clone, Rust and a way to packages."""
        self._way_to_packages()
        self.bound[toolchain()] = _TOOLCHAIN
        cargo = self.root / "root/.cargo"
        (cargo / "bin").mkdir(parents=True)
        for program in ("cargo", "rustc"):
            (cargo / "bin" / program).symlink_to(f"{_TOOLCHAIN}/bin/{program}")
        own = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
        for name in ("config.toml", "config", "registry"):
            copy(own / name, cargo / name)
        for name in self._tracked():
            if (ROOT / name).exists():
                to = self.root / _CHECKOUT[1:] / name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, to, follow_symlinks=False)

    def run(self, script: str, network: bool) -> None:
        """Run it by bash, in the clone. ``network``: on this machine's, otherwise there is but a loopback.
        ``MachineError`` if it fails.
        """
        root = shlex.quote(str(self.root))
        prepare = ["set -e", "hostname fresh", *([] if network else ["ip link set lo up"])]
        for kind, at in (("proc", "proc"), ("sysfs -o ro", "sys"), ("tmpfs", "dev/shm")):
            prepare.append(f"mount -t {kind} own {root}/{at}")
        for source, at in self.bound.items():
            to = self.root / at.lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            to.mkdir(exist_ok=True) if source.is_dir() else to.touch()
            prepare.append(f"mount --bind -o ro {shlex.quote(str(source))} {shlex.quote(str(to))}")
        prepare.append(f"exec chroot {root} bash -c {shlex.quote(f'cd {_CHECKOUT}{chr(10)}{script}')}")
        own = _OWN if network else (*_OWN, "--net")
        login = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._here([*own, "bash", "-c", "\n".join(prepare)], {**login, **self.way})

    def _way_to_packages(self) -> None:
        home = Path.home()
        for name in (".config/pip/pip.conf", ".pip/pip.conf"):
            copy(home / name, self.root / "root" / name)
        for path in (*map(Path, _WAY_FILES), *way_paths(self.way)):
            # What packages write to is copied; the rest may be large.
            if path.is_relative_to("/etc") or str(path) in _WAY_FILES:
                copy(path, self.root / str(path).lstrip("/"))
            else:
                self.bound[path] = str(path)
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in dump.splitlines() if re.match(r"Acquire::(?!IndexTargets)", line)]
        (self.root / "etc/apt/apt.conf.d/90way").write_text("\n".join(lines) + "\n")

    def _tracked(self) -> list[str]:
        """The files of the working tree that a commit of it would have."""
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode != 0:
            raise MachineError(f"{ROOT} cannot be cloned; git says: {listed.stderr.strip()}")
        return [name for name in listed.stdout.split("\0") if name]

    def _here(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_LONGEST_S,
                check=False,
            )
        if done.returncode != 0:
            raise MachineError(f"exit code {done.returncode}; the whole of what it said is in {self.log}")


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A machine that is gone afterwards; ``MachineError`` if another one runs in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineError(f"another one runs in {folder}: wait for it, or set BLOCKPAIR_CACHE") from None
        log = folder / "log"
        log.write_bytes(b"")
        made = Machine(folder, log)
        # Of one that was killed.
        shutil.rmtree(made.work, ignore_errors=True)
        try:
            yield made
        finally:
            shutil.rmtree(made.work, ignore_errors=True)


def install_missing() -> None:
    """The programs that it takes, from Debian's packages."""
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    print(f"installing {' '.join(missing)}", flush=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    update = ["apt-get", "update", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # The first attempt spares machines with fresh package lists the update.
    for command in (install, update, install):
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        if command is install and done.returncode == 0:
            return
    raise MachineError(f"apt-get could not install {' '.join(missing)}: do it by hand")


def parts(fresh: Machine, anew: bool) -> list[tuple[str, Callable[[], None]]]:
    """What is done, in order."""
    wanted = " ".join(quick_start.packages())
    packages = f"apt-get install --no-install-recommends {wanted}"
    return [
        (f"a bare Debian, {SUITE}", lambda: fresh.bare(anew)),
        ("a clone, and Rust beside it", fresh.furnish),
        (quick_start.SETUP.strip(), lambda: fresh.run(f"set -ex\n{quick_start.SETUP}", network=True)),
        (packages, lambda: fresh.run(f"set -ex\nDEBIAN_FRONTEND=noninteractive {packages} -y", network=True)),
        ("the page's other code blocks", lambda: fresh.run(quick_start.commands(), network=False)),
        ("./scripts/demo", lambda: fresh.run("set -ex\n./scripts/demo", network=True)),
    ]


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 if a reader gets through, 1 if not, 2 for a wrong use."""
    parser = argparse.ArgumentParser(
        prog="scripts/docs test",
        description="Runs the quick start's code blocks, word for word, and scripts/demo, on a bare Debian "
        "in namespaces of its own, whose toolchain and way to packages are this machine's. Needs root.",
        epilog=f"environment: BLOCKPAIR_MIRROR, Debian's mirror (default: {MIRROR}); BLOCKPAIR_CACHE, where "
        "the bare Debian is kept (default: ~/.cache/blockpair)",
    )
    parser.add_argument("--anew", action="store_true", help="get the bare Debian from the mirror again")
    given = parser.parse_args(arguments)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    # An end by a signal goes through every `finally` too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    cache = Path(os.environ.get("BLOCKPAIR_CACHE") or Path.home() / ".cache/blockpair").absolute()
    try:
        if os.geteuid() != 0:
            raise MachineError("needs root, for namespaces and debootstrap: run 'sudo ./scripts/docs test'")
        install_missing()
        with machine(cache / "quick-start") as fresh:
            for name, part in parts(fresh, given.anew):
                began = time.monotonic()
                try:
                    part()
                except (MachineError, OSError, subprocess.SubprocessError) as error:
                    last = fresh.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
                    print("\n".join(last), file=sys.stderr)
                    print(f"failed  {time.monotonic() - began:6.1f} s  {name}: {error}", flush=True)
                    return 1
                print(f"passed  {time.monotonic() - began:6.1f} s  {name}", flush=True)
    except MachineError as error:
        print(f"scripts/docs test: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
