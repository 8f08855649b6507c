"""Puts blockpair on a Debian machine, or takes it away again. Run it by scripts/install.

What shall be there is a table of files; what is there is looked at; the difference is what is done, and
what `--plan` prints. The program lives in /opt/blockpair/VERSION, a virtual environment that is whole before
the link to it is switched, so an upgrade that is cut off leaves what was there. Only the standard library is
used: it runs where nothing is installed yet.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = Path("opt/blockpair")
RECORD = HOME / "installed.json"
PROGRAMS = ("blockpair", "blockpaird", "blockpair-ocf", "blockpair-vip-guard")
NODE_UNITS = ("blockpaird.service",)
WITNESS_UNITS = ("blockpair-witness.service",)
ALL_UNITS = ("blockpair-inhibit.service", *NODE_UNITS, *WITNESS_UNITS)
KEPT = ("/etc/blockpair", "/var/lib/blockpair", "/var/lib/blockpair-witness")
_COMPLETIONS = {
    "blockpair": "usr/share/bash-completion/completions/blockpair",
    "_blockpair": "usr/share/zsh/vendor-completions/_blockpair",
    "blockpair.fish": "usr/share/fish/vendor_completions.d/blockpair.fish",
}
# Of packaging/, by folder: where it goes, and its mode.
_PACKAGING = {
    "systemd": ("usr/lib/systemd/system", 0o644),
    "sysusers.d": ("usr/lib/sysusers.d", 0o644),
    "tmpfiles.d": ("usr/lib/tmpfiles.d", 0o644),
    "udev": ("usr/lib/udev/rules.d", 0o644),
    "ocf": ("usr/lib/ocf/resource.d/blockpair", 0o755),
    "prometheus": ("usr/share/doc/blockpair/prometheus", 0o644),
    "grafana": ("usr/share/doc/blockpair/grafana", 0o644),
}
_PACKAGES = {"python3-venv": "ensurepip", "kmod": "/sbin/modprobe", "e2fsprogs": "/sbin/mkfs.ext4"}


class InstallError(Exception):
    """What is wrong, and the remedy; the exit code."""

    def __init__(self, message: str, remedy: str, code: int = 1) -> None:
        super().__init__(f"{message}\n  remedy: {remedy}")
        self.code = code


@dataclass(frozen=True)
class Entry:
    """A file, or where ``link`` is set a symbolic link, that shall be at ``path`` below the root."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    link: str = ""

    @property
    def digest(self) -> str:
        """Of all that it is."""
        return hashlib.sha256(f"{self.mode:o} {self.link} ".encode() + self.content).hexdigest()[:16]


def entry_at(root: Path, path: str) -> Entry | None:
    """What is there; None where nothing is."""
    at = root / path
    if at.is_symlink():
        return Entry(path, link=str(at.readlink()))
    if not at.exists():
        return None
    return Entry(path, at.read_bytes(), at.stat().st_mode & 0o7777)


def wanted_entries(source: Path, wheels: Path | None) -> list[Entry]:
    """Every file and link but the environment itself.

    ``source``: a checkout; ``wheels``: what scripts/wheels made; None: nothing yet, and what
    comes from there is left out.
    """
    found = [Entry(f"usr/bin/{name}", link=f"/{HOME}/current/bin/{name}") for name in PROGRAMS]
    for folder, (target, mode) in _PACKAGING.items():
        for file in sorted((source / "packaging" / folder).iterdir()):
            found.append(Entry(f"{target}/{file.name}", file.read_bytes(), mode))
    if wheels is not None:
        for file in sorted((wheels / "man").iterdir()):
            found.append(Entry(f"usr/share/man/man{file.suffix[1:]}/{file.name}", file.read_bytes()))
        for name, target in _COMPLETIONS.items():
            found.append(Entry(target, (wheels / "completions" / name).read_bytes()))
    docs = source / "docs"
    for file in sorted(path for path in docs.rglob("*") if path.is_file()):
        found.append(Entry(f"usr/share/doc/blockpair/{file.relative_to(docs)}", file.read_bytes()))
    return found


@dataclass(frozen=True)
class Change:
    """What is to be done at one path: ``add``, ``replace`` or ``remove``."""

    kind: str
    path: str
    entry: Entry | None = None


def changes(wanted: Sequence[Entry], recorded: dict[str, str], root: Path) -> list[Change]:
    """From what is there to what is wanted. ``recorded``: what an earlier run installed, by path the digest.

    Raises `InstallError` where a file is in the way that no earlier run installed.
    """
    found = []
    for entry in wanted:
        present = entry_at(root, entry.path)
        if present is None:
            found.append(Change("add", entry.path, entry))
        elif present.digest != entry.digest:
            if entry.path not in recorded:
                raise InstallError(
                    f"/{entry.path} is there and was not put there by scripts/install",
                    "move it away, or remove the package that it belongs to, then try again",
                    3,
                )
            found.append(Change("replace", entry.path, entry))
    names = {entry.path for entry in wanted}
    gone = (path for path in sorted(recorded) if path not in names)
    return found + [Change("remove", path) for path in gone if entry_at(root, path) is not None]


def version_of(wheels: Path) -> str:
    """A name for what these wheels make, with this Python."""
    digest = hashlib.sha256(sys.version.encode())
    for file in sorted(wheels.glob("*.whl")):
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    [own] = wheels.glob("blockpair-*.whl")
    return f"{own.name.split('-')[1]}-{digest.hexdigest()[:12]}"


def read_record(root: Path) -> dict[str, str]:
    """What an earlier run installed. Raises `InstallError` where its record is damaged."""
    file = root / RECORD
    if not file.exists():
        return {}
    try:
        record = json.loads(file.read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        raise InstallError(
            f"{file} is damaged", f"remove it; see what is there by: ls -l {file.parent}"
        ) from None
    return {str(path): str(digest) for path, digest in record.items()}


def write_record(root: Path, files: dict[str, str]) -> None:
    """Whole, or not at all."""
    write_file(root / RECORD, json.dumps({"files": files}, indent=1, sort_keys=True).encode() + b"\n", 0o644)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def put_link(path: Path, to: str) -> None:
    """Make or replace a symbolic link at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(path)


def take_away(root: Path, path: str) -> None:
    """Remove a file, and the folders that only it was in."""
    (root / path).unlink(missing_ok=True)
    for folder in (root / path).parents:
        if not {"blockpair", "ocf"} & set(folder.relative_to(root).parts):
            return
        with contextlib.suppress(OSError):
            folder.rmdir()


def carry_out(change: Change, root: Path) -> None:
    """Do it. Raises `OSError`."""
    if change.entry is None:
        take_away(root, change.path)
    elif change.entry.link:
        put_link(root / change.path, change.entry.link)
    else:
        write_file(root / change.path, change.entry.content, change.entry.mode)


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of the system. Raises `InstallError` with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise InstallError(
            f"{command[0]} cannot be run: {error.strerror}", "install it, then try again"
        ) from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise InstallError(
            f"`{' '.join(map(str, command))}` ended with {done.returncode}: {said}", "see above"
        )
    return done


def missing_packages() -> list[str]:
    """Debian packages without which nothing goes."""
    found = []
    for package, witness in _PACKAGES.items():
        if witness.startswith("/"):
            there = Path(witness).exists()
        else:
            there = run(sys.executable, "-c", f"import venv, {witness}", check=False).returncode == 0
        if not there:
            found.append(package)
    return found


def make_environment(home: Path, version: str, wheels: Path) -> None:
    """The program below ``home``, and the link to it. Made under its own name, because its programs name it;
    until it is whole nothing refers to it. Raises `InstallError`.
    """
    place = home / version
    whole = place / "whole"
    if whole.exists():
        put_link(home / "current", version)
        return
    shutil.rmtree(place, ignore_errors=True)
    run(sys.executable, "-m", "venv", place)
    pip = (place / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-index", "--find-links", wheels, "blockpair")
    run(place / "bin/blockpair", "--version")
    whole.touch()
    put_link(home / "current", version)


def systemd_runs() -> bool:
    """Whether this machine was booted with systemd (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


class Installer:
    """One run on this machine. ``tell`` gets a line for each thing that is done, or would be."""

    def __init__(self, *, plan: bool, start: bool, units: Sequence[str]) -> None:
        self._plan, self._start, self._units = plan, start, units
        self._root = Path("/")
        self._home = self._root / HOME

    def tell(self, text: str) -> None:
        print(f"{'would ' if self._plan else ''}{text}")

    def install(self, wheels: Path | None) -> None:
        """``wheels``: None only to plan before they are built. Raises `InstallError`."""
        recorded = read_record(self._root)
        wanted = wanted_entries(ROOT, wheels)
        todo = changes(wanted, recorded, self._root)
        if wheels is None:
            # What the build brings is there from an earlier run perhaps: it is not seen as gone.
            todo = [change for change in todo if change.kind != "remove"]
            self.tell("build blockpair by scripts/wheels (Rust, PyPI), man pages and completions with it")
        version = "VERSION" if wheels is None else version_of(wheels)
        current = self._home / "current"
        fresh = not current.is_symlink() or str(current.readlink()) != version
        packages = missing_packages()
        for package in packages:
            self.tell(f"install the Debian package {package}")
        if packages and not self._plan:
            self._apt(packages)
        files = {entry.path: entry.digest for entry in wanted}
        if not self._plan:
            # Before the first change: whenever this ends, the next run knows what is ours.
            write_record(self._root, recorded | files)
        if fresh:
            self.tell(f"make {self._home / version}, a virtual environment, from {wheels or 'these wheels'}")
            if wheels is not None and not self._plan:
                make_environment(self._home, version, wheels)
        for change in todo:
            self.tell(f"{change.kind} /{change.path}")
            if not self._plan:
                carry_out(change, self._root)
        if not self._plan:
            write_record(self._root, files)
        units = {Path(change.path).name for change in todo} & set(ALL_UNITS)
        self._services(version, anew=bool(todo), changed=units)
        if not self._plan:
            for old in list(self._old_environments(version)):
                shutil.rmtree(old)
        if not todo and not fresh:
            print("every file was there already")

    def remove(self) -> None:
        """Raises `InstallError`."""
        recorded = read_record(self._root)
        if not recorded and not self._home.exists():
            print("blockpair is not installed by scripts/install")
            return
        self._check_may_stop()
        if systemd_runs():
            for unit in ALL_UNITS:
                if run("systemctl", "is-enabled", unit, check=False).returncode == 0 or self._active(unit):
                    self.tell(f"stop and disable {unit}")
                    if not self._plan:
                        run("systemctl", "disable", "--now", unit)
        for path in sorted(recorded):
            self.tell(f"remove /{path}")
            if not self._plan:
                take_away(self._root, path)
        self.tell(f"remove {self._home}")
        if not self._plan:
            shutil.rmtree(self._home, ignore_errors=True)
            self._reload()
        kept = [path for path in KEPT if Path(path).exists()]
        if kept:
            print(f"kept: {', '.join(kept)}: configuration, keys, metadata, bundles; the group blockpair")

    def _check_may_stop(self) -> None:
        if not systemd_runs() or not self._active("blockpaird.service"):
            return
        answer = run("/usr/bin/blockpair", "may-stop", check=False)
        if answer.returncode == 3:
            raise InstallError(
                f"this node is in use: {(answer.stdout + answer.stderr).strip()}",
                "move its resources to the other node, or `blockpair down` them; then try again",
                3,
            )

    def _apt(self, packages: Sequence[str]) -> None:
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        command = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)
        if run(*command, check=False).returncode:
            run("apt-get", "update", "-qq")
            run(*command)

    def _old_environments(self, version: str) -> Iterator[Path]:
        for entry in self._home.iterdir():
            if (
                entry.is_dir()
                and not entry.is_symlink()
                and entry.name != version
                and (entry / "pyvenv.cfg").exists()
            ):
                yield entry

    def _services(self, version: str, *, anew: bool, changed: Collection[str]) -> None:
        """After the files: ``anew``: some are new; ``changed``: the units whose file is."""
        if not systemd_runs():
            print(f"no systemd runs here: where one does, `systemctl enable --now {self._units[0]}`")
            return
        if anew:
            self.tell("make the group and the directories, and reload systemd and udev")
        if not self._plan:
            # Each time: a run before this one may have ended in between.
            run("systemd-sysusers", "/usr/lib/sysusers.d/blockpair.conf")
            run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/blockpair.conf")
            self._reload()
        for unit in self._units:
            if run("systemctl", "is-enabled", unit, check=False).returncode:
                self.tell(f"enable {unit}")
                if not self._plan:
                    run("systemctl", "enable", "--quiet", unit)
        for unit in ALL_UNITS:
            if self._active(unit) and (unit in changed or self._runs_another(unit, version)):
                self.tell(f"restart {unit}")
                if not self._plan:
                    self._restart(unit)
            elif unit in self._units and self._start and not self._active(unit):
                self.tell(f"start {unit}")
                if not self._plan:
                    run("systemctl", "start", unit)

    def _runs_another(self, unit: str, version: str) -> bool:
        """Whether its process is of another version: its interpreter is in that one's environment."""
        process = run("systemctl", "show", "--value", "--property=MainPID", unit).stdout.strip()
        try:
            return version.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            return False

    def _restart(self, unit: str) -> None:
        began = time.monotonic()
        run("systemctl", "restart", unit)
        seconds = time.monotonic() - began
        waited = "; I/O of mounted resources waited no longer" if unit in NODE_UNITS else ""
        print(f"{unit} was away for {seconds:.1f} s{waited}")

    def _reload(self) -> None:
        if systemd_runs():
            run("systemctl", "daemon-reload")
            run("udevadm", "control", "--reload", check=False)

    def _active(self, unit: str) -> bool:
        """Whether it runs or is about to, as after a restart that the service manager has begun."""
        return run("systemctl", "is-active", unit, check=False).stdout.strip() in ("active", "activating")


def chosen_wheels(given: Path | None, *, plan: bool) -> Path | None:
    """The folder with what scripts/wheels made; made now where none is named, or None to ``plan`` that.

    Raises `InstallError`.
    """
    folder = (given or ROOT / "wheels").resolve()
    if given is None and plan and not folder.exists():
        return None
    if (
        given is None
        and not plan
        and subprocess.run([ROOT / "scripts/wheels", folder], check=False).returncode
    ):
        raise InstallError(
            "scripts/wheels failed", "see above; or build on another machine, and give --wheels", 1
        )
    if len(list(folder.glob("blockpair-*.whl"))) != 1 or not (folder / "man").is_dir():
        raise InstallError(f"{folder} is not what scripts/wheels makes", f"run scripts/wheels {folder}", 1)
    return folder


def parser() -> argparse.ArgumentParser:
    """The command line; scripts/install has its help."""
    made = argparse.ArgumentParser(prog="scripts/install", add_help=False)
    made.add_argument("--wheels", type=Path, metavar="FOLDER")
    for flag in ("--witness", "--no-start", "--remove", "--plan"):
        made.add_argument(flag, action="store_true")
    return made


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    chosen = parser().parse_args(arguments)
    try:
        if os.geteuid() != 0 and not chosen.plan:
            raise InstallError("this needs root", "sudo scripts/install")
        units = WITNESS_UNITS if chosen.witness else NODE_UNITS
        installer = Installer(plan=chosen.plan, start=not chosen.no_start, units=units)
        if chosen.remove:
            installer.remove()
        else:
            installer.install(chosen_wheels(chosen.wheels, plan=chosen.plan))
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        # Whoever read the plan has seen enough; nothing more is to be said at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"install: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
