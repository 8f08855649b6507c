"""Real files for the demonstration, and two ways to keep them in an ext4 file system on an NBD export.

`MountedExport` needs root: the export appears as a file (nbdfuse) and the kernel mounts the ext4 in it, so
every file is written one by one through the primary. `ImageExport` needs nothing: the file system is built
and read by e2fsprogs in an image, and the blocks that changed are written to the export.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from demo_nodes import DemoFailed, wait_for

# A file's path inside the file system, and the SHA-256 of its content.
Hashes = dict[str, str]
# The system's own programs first: Debian's nbdsh must find Debian's python3, not a virtual environment's.
TOOLS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", "")


def tool(*command: str | Path, accept: Sequence[int] = (0,), text: str | None = None) -> str:
    """Runs a system tool and returns its output; raises `DemoFailed` with it on any other exit code."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": TOOLS_PATH, "LC_ALL": "C"},
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
    except FileNotFoundError:
        raise DemoFailed(
            f"'{command[0]}' is not installed; ./scripts/setup --for demo --check says what is missing"
        ) from None
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"'{' '.join(map(str, command))}' did not end within 120 s") from None
    if done.returncode not in accept:
        raise DemoFailed(
            f"'{' '.join(map(str, command))}' exited with {done.returncode}:\n{done.stdout.strip()[-2000:]}"
        )
    return done.stdout


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_tree(root: Path) -> Hashes:
    """The hashes of all regular files below `root`; what mkfs makes itself is left out."""
    found: Hashes = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.relative_to(root).parts[0] != "lost+found":
            found[str(path.relative_to(root))] = sha256(path)
    return found


def choose(sources: Sequence[Path], limit_bytes: int) -> list[Path]:
    """Regular files below `sources`, up to `limit_bytes` in all; unreadable and huge ones are passed over."""
    chosen: list[Path] = []
    taken = 0
    for source in sources:
        for path in sorted(source.rglob("*")):
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            size = path.stat().st_size
            # A file uses whole blocks and an inode.
            if size > limit_bytes // 4 or taken + size + 4096 > limit_bytes:
                continue
            chosen.append(path)
            taken += size + 4096
    return chosen


def copy_files(files: Sequence[Path], to: Path, name: Callable[[Path], str]) -> tuple[Hashes, int]:
    """Copies `files` to `to` under `name(file)`; returns the originals' hashes and the bytes copied."""
    hashes: Hashes = {}
    copied = 0
    for path in files:
        target = to / name(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        target.write_bytes(content)
        hashes[name(path)] = hashlib.sha256(content).hexdigest()
        copied += len(content)
    return hashes, copied


class Export(Protocol):
    """An ext4 file system on the primary's export. Whatever a call has written is flushed when it returns."""

    how: str
    # Whether the file system survives a primary that dies in the middle of a write (it has a journal in use).
    journalled: bool

    def make(self) -> None:
        """Makes an empty file system."""

    def add(self, files: Sequence[Path], name: Callable[[Path], str]) -> tuple[Hashes, int]:
        """Adds files; returns the originals' hashes and the bytes copied."""

    def write_durably(self, name: str, content: bytes) -> bool:
        """Writes one file and flushes it to the disk; False when the disk has died, or died meanwhile."""

    def check(self) -> None:
        """Checks the file system as after a crash; raises `DemoFailed` when it is not whole."""

    def hashes(self) -> Hashes:
        """The hashes of every file in it."""

    def close(self) -> None:
        """Lets go of the export; works when the export has died."""


class Shown:
    """Runs tools after showing their command lines."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def run(self, *command: str | Path, accept: Sequence[int] = (0,)) -> str:
        """As `tool`, shown."""
        self._show(shlex.join(map(str, command)))
        return tool(*command, accept=accept)


class MountedExport(Shown):
    """The export as a file through nbdfuse, its ext4 mounted by the kernel."""

    how = "mounted by the kernel, through nbdfuse and a loop device"
    journalled = True

    def __init__(self, socket: Path, folder: Path, show: Callable[[str], None]) -> None:
        super().__init__(show)
        self.folder = folder
        self.export = folder / "fuse" / "disk"
        self.mountpoint = folder / "mnt"
        self.export.parent.mkdir(parents=True, exist_ok=True)
        self.mountpoint.mkdir(exist_ok=True)
        self._mounted = False
        command = ["nbdfuse", str(self.export), f"nbd+unix:///?socket={socket}"]
        show(shlex.join(command) + " &")
        self._nbdfuse = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "nbdfuse.log").open("ab"),
            start_new_session=True,
        )
        try:
            wait_for("nbdfuse shows the export as a file", 10, self._appeared)
        except BaseException:
            self.close()
            raise

    def _appeared(self) -> bool:
        if self._nbdfuse.poll() is not None:
            raise DemoFailed(
                "nbdfuse ended: " + (self.folder / "nbdfuse.log").read_text(errors="replace").strip()
            )
        return self.export.exists()

    @staticmethod
    def possible() -> str | None:
        """Why this way is closed on this machine, or None."""
        if os.geteuid() != 0:
            return "mounting needs root"
        if not Path("/dev/fuse").exists() or not Path("/dev/loop-control").exists():
            return "this kernel offers no /dev/fuse or no loop devices"
        if shutil.which("nbdfuse") is None:
            return "nbdfuse (Debian package libnbd-bin) is not installed"
        return None

    def make(self) -> None:
        # No lazy initialisation: the kernel would go on writing inode tables in the background.
        self.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.export)

    def _mount(self) -> Path:
        if not self._mounted:
            self.run("mount", "-t", "ext4", "-o", "loop,noatime", self.export, self.mountpoint)
            self._mounted = True
        return self.mountpoint

    def add(self, files: Sequence[Path], name: Callable[[Path], str]) -> tuple[Hashes, int]:
        result = copy_files(files, self._mount(), name)
        self.run("sync", "-f", self.mountpoint)
        return result

    def write_durably(self, name: str, content: bytes) -> bool:
        path = self._mount() / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            return False
        return True

    def check(self) -> None:
        # On a block device, because e2fsck writes single bytes and the export takes whole sectors.
        device = tool("losetup", "--find", "--show", self.export).strip()
        try:
            # 1 means "errors corrected", which a replay of the journal may be; then none may be left.
            self.run("e2fsck", "-f", "-p", device, accept=(0, 1))
            self.run("e2fsck", "-f", "-n", device)
        finally:
            tool("losetup", "--detach", device)

    def hashes(self) -> Hashes:
        return hash_tree(self._mount())

    def close(self) -> None:
        if self._mounted:
            try:
                self.run("umount", self.mountpoint)
            except DemoFailed:
                tool("umount", "--lazy", self.mountpoint)
            self._mounted = False
        if self._nbdfuse.poll() is None:
            # Unmounting ends nbdfuse after it has finished what it had in hand.
            with contextlib.suppress(DemoFailed):
                tool("umount", self.export.parent)
            try:
                self._nbdfuse.wait(10)
            except subprocess.TimeoutExpired:
                self._nbdfuse.kill()
                self._nbdfuse.wait()
        if os.path.ismount(self.export.parent) or not _reachable(self.export.parent):
            tool("umount", "--lazy", self.export.parent)


def _reachable(folder: Path) -> bool:
    """False for the mount point of a FUSE server that has died."""
    try:
        folder.stat()
    except OSError:
        return False
    return True


class ImageExport(Shown):
    """An ext4 file system kept in an image by e2fsprogs; nbdsh writes the changed blocks to the export."""

    how = "built by mke2fs and debugfs in an image, changed blocks written by nbdsh"
    journalled = False

    def __init__(self, socket: Path, folder: Path, size: int, show: Callable[[str], None]) -> None:
        super().__init__(show)
        self.uri = f"nbd+unix:///?socket={socket}"
        self.folder = folder
        self.size = size
        self.image = folder / "image"
        self.written = folder / "image.written"
        self.tree = folder / "tree"
        self._folders: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def make(self) -> None:
        for image in (self.image, self.written):
            with image.open("wb") as handle:
                handle.truncate(self.size)
        self.run("mkfs.ext4", "-q", "-F", self.image)
        self._push()

    def add(self, files: Sequence[Path], name: Callable[[Path], str]) -> tuple[Hashes, int]:
        shutil.rmtree(self.tree, ignore_errors=True)
        result = copy_files(files, self.tree, name)
        commands: list[str] = []
        for path in sorted(self.tree.rglob("*")):
            inside = path.relative_to(self.tree)
            if path.is_dir():
                if str(inside) not in self._folders:
                    commands.append(f'mkdir "/{inside}"')
                    self._folders.add(str(inside))
            else:
                commands.append(f'write "{path}" "/{inside}"')
        complaints = [
            line
            for line in tool(
                "debugfs", "-w", "-f", "-", self.image, text="\n".join(commands) + "\n"
            ).splitlines()
            if not line.startswith(("debugfs", "Allocated inode"))
        ]
        if complaints:
            raise DemoFailed("debugfs could not write into the image: " + "; ".join(complaints[:3]))
        self._push()
        return result

    def write_durably(self, name: str, content: bytes) -> bool:
        source = self.folder / "entry"
        source.write_bytes(content)
        try:
            self.add([source], lambda _: name)
        except DemoFailed:
            return False
        return True

    def _push(self) -> None:
        script = (
            f"with open({str(self.image)!r}, 'rb') as new, open({str(self.written)!r}, 'r+b') as old:\n"
            "    for offset in range(0, h.get_size(), 65536):\n"
            "        block = new.read(65536)\n"
            "        if block != old.read(65536):\n"
            "            h.pwrite(block, offset)\n"
            "            old.seek(offset)\n"
            "            old.write(block)\n"
            "h.flush()\n"
            "h.shutdown()\n"
        )
        tool("nbdsh", "-u", self.uri, "-c", script)

    def check(self) -> None:
        self.image.unlink(missing_ok=True)
        self.run("nbdcopy", self.uri, self.image)
        self.run("e2fsck", "-f", "-n", self.image)

    def hashes(self) -> Hashes:
        out = self.folder / "read-back"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        self.run("debugfs", "-R", f'rdump / "{out}"', self.image)
        return hash_tree(out)

    def close(self) -> None:
        """Nothing is held open between two calls."""


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """One line for each file that is missing, foreign or different."""
    for name in sorted(expected.keys() - found.keys()):
        yield f"missing: {name}"
    for name in sorted(found.keys() - expected.keys()):
        yield f"not expected: {name}"
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            yield f"content differs: {name}"
