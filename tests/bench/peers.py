"""What people use today, set up as well as we know how: beating a handicapped peer is worth nothing.

Both copies of a peer lie on the same file system as ours, are of the same size and filled beforehand; the far
copy is reached by TCP.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .host import BenchFailed, Server, free_ports, has_module, require, tcp_listening, unix_listening

SHIM_SOURCE = Path(__file__).with_name("nodelay.c")


@dataclass(frozen=True)
class Export:
    """A running contender: where the application connects, and whose processor time counts."""

    uri: str
    pids: tuple[int, ...]


class Contender(Protocol):
    """Something to race. `copies` are the files that must be identical after each run."""

    name: str
    copies: tuple[Path, ...]

    def running(self) -> contextlib.AbstractContextManager[Export]: ...


def build_shim(folder: Path) -> Path | None:
    """Compiles the TCP_NODELAY shim; None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "nodelay.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-o", library, SHIM_SOURCE, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchFailed(f"{compiler} could not build {SHIM_SOURCE.name}: {done.stderr.strip()[-400:]}")
    return library


def _file_node(name: str, path: Path) -> dict[str, Any]:
    # Threads, not io_uring: on tmpfs the latter hands every request to a kernel worker and is much slower.
    return {"driver": "file", "node-name": name, "filename": str(path), "aio": "threads", "discard": "unmap"}


def _block_devices(*nodes: Mapping[str, Any]) -> list[str]:
    return [word for node in nodes for word in ("--blockdev", json.dumps(node))]


class Quorum:
    """qemu-storage-daemon on a file and, by NBD over TCP, on a second daemon; both writes must succeed."""

    def __init__(self, folder: Path, near: Path, far: Path, shim: Path | None) -> None:
        require("qemu-storage-daemon")
        self.name = "qemu quorum" if shim else "qemu quorum (stock: Nagle on)"
        self.copies: tuple[Path, ...] = (near, far)
        self._folder = folder
        self._shim = shim

    @contextlib.contextmanager
    def running(self) -> Iterator[Export]:
        near, far = self.copies
        (port,) = free_ports(1)
        log = self._folder / "quorum.log"
        secondary = Server(
            [
                *("qemu-storage-daemon", *_block_devices(_file_node("far", far))),
                *("--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}"),
                *("--export", "type=nbd,id=far,node-name=far,name=far,writable=on"),
            ],
            log,
            lambda: tcp_listening(port),
            {"LD_PRELOAD": str(self._shim)} if self._shim else None,
        )
        with secondary:
            if self._shim and not has_module(self._shim, secondary.pid):
                raise BenchFailed(
                    "the TCP_NODELAY shim was not loaded into qemu-storage-daemon: the race would be unfair"
                )
            server = {"type": "inet", "host": "127.0.0.1", "port": str(port)}
            remote = {"driver": "nbd", "node-name": "far", "server": server, "export": "far"}
            quorum = {
                "driver": "quorum",
                "node-name": "top",
                "vote-threshold": 2,
                "read-pattern": "fifo",
                "children": ["near", "far"],
            }
            nodes = _block_devices(_file_node("near", near), remote, quorum)
            with _unix_export(self._folder / "quorum.sock", nodes, log) as primary:
                yield Export(primary.uri, (*primary.pids, secondary.pid))


@contextlib.contextmanager
def _unix_export(path: Path, nodes: list[str], log: Path) -> Iterator[Export]:
    """A qemu-storage-daemon that offers its node `top` on a Unix socket."""
    path.unlink(missing_ok=True)
    command = [
        *("qemu-storage-daemon", *nodes, "--nbd-server", f"addr.type=unix,addr.path={path}"),
        *("--export", "type=nbd,id=top,node-name=top,name=top,writable=on"),
    ]
    with Server(command, log, lambda: unix_listening(path)) as server:
        yield Export(f"nbd+unix:///top?socket={path}", (server.pid,))


class Nbdkit:
    """nbdkit's file plugin: one copy, no replication; what a plain NBD server can do here at most."""

    def __init__(self, folder: Path, image: Path) -> None:
        require("nbdkit")
        self.name = "nbdkit, not replicated"
        self.copies: tuple[Path, ...] = (image,)
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[Export]:
        path = self._folder / "nbdkit.sock"
        path.unlink(missing_ok=True)
        command: list[str | Path] = ["nbdkit", "--foreground", "--unix", path, "file", self.copies[0]]
        with Server(command, self._folder / "nbdkit.log", lambda: unix_listening(path)) as server:
            yield Export(f"nbd+unix:///?socket={path}", (server.pid,))


class QemuNbd:
    """qemu-nbd: one copy, no replication."""

    def __init__(self, folder: Path, image: Path) -> None:
        require("qemu-nbd")
        self.name = "qemu-nbd, not replicated"
        self.copies: tuple[Path, ...] = (image,)
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[Export]:
        path = self._folder / "qemu-nbd.sock"
        path.unlink(missing_ok=True)
        command: list[str | Path] = [
            *("qemu-nbd", "--persistent", "--shared=4", "--format=raw", "--cache=writeback", "--aio=threads"),
            *("--export-name=top", f"--socket={path}", self.copies[0]),
        ]
        with Server(command, self._folder / "qemu-nbd.log", lambda: unix_listening(path)) as server:
            yield Export(f"nbd+unix:///top?socket={path}", (server.pid,))


def nbdcopy(folder: Path, source: Path, target: Path) -> float:
    """Copies all of `source` over `target`, served by nbdkit over TCP; returns the copy's seconds."""
    require("nbdcopy", "nbdkit")
    (port,) = free_ports(1)
    command: list[str | Path] = [
        "nbdkit",
        "--foreground",
        "--ipaddr",
        "127.0.0.1",
        "--port",
        str(port),
        "file",
        target,
    ]
    with Server(command, folder / "nbdcopy.log", lambda: tcp_listening(port)):
        began = time.monotonic()
        done = subprocess.run(
            ["nbdcopy", source, f"nbd://127.0.0.1:{port}"], capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began
    if done.returncode != 0:
        raise BenchFailed(f"nbdcopy failed: {done.stderr.strip()[-400:]}")
    return seconds
