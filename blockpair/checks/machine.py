"""Gathers a node's own facts: configuration files, /proc, /sys, devices, metadata. It reads, changes nothing,
and needs no daemon.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from blockpair import __version__
from blockpair.checks.facts import (
    ArrayFacts,
    ClockFacts,
    CopyFacts,
    KernelFacts,
    NodeFacts,
    SpaceFacts,
    WatchdogFacts,
)
from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig
from blockpair.config.resource import ResourceConfig, read_resource
from blockpair.errors import BlockpairError
from blockpair.health.sensors import Sensors
from blockpair.kernel_device.device import too_old
from blockpair.raid.inventory import Inventory
from blockpair.raid.outlook import healthy, lost, survival, until_whole

# io_uring_setup(2) has this number on all architectures.
_SETUP = 425
_PARAMS_BYTES = 120
_MODPROBE_SECONDS = 20
# The superblock of a resource that is up may be read while it is written.
_READS = 3
_READ_PAUSE = 0.05
_Facts = TypeVar("_Facts")


def gather(node: NodeConfig, places: Locations) -> NodeFacts:
    """The facts of this node; what cannot be seen is named. May take a second."""
    unseen: list[str] = []
    unreadable: list[str] = []
    configs: list[ResourceConfig] = []
    for file in sorted(places.resources.glob("*.toml")):
        try:
            configs.append(read_resource(file, node.name))
        except BlockpairError as error:
            unreadable.append(error.message)

    def seen(what: str, look: Callable[[], _Facts], otherwise: _Facts) -> _Facts:
        try:
            return look()
        except (BlockpairError, OSError) as error:
            unseen.append(f"{what}: {error}")
            return otherwise

    return NodeFacts(
        node=node.name,
        version=__version__,
        member=places.cluster_file.exists(),
        kernel=_kernel(node),
        watchdog=_watchdog(node),
        clock=ClockFacts(_clock_offset()),
        space=seen("space", lambda: _space(places.state), None),
        arrays=seen("arrays", _arrays, []),
        copies=[_copy(config) for config in configs],
        unreadable=unreadable,
        unseen=unseen,
    )


def taken_ports(node: NodeConfig) -> list[str]:
    """Which ports a daemon of this node could not have, and why. Not to be asked while it runs."""
    found = []
    for address in (node.listen, node.control):
        try:
            known = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            with socket.socket(known[0][0], socket.SOCK_STREAM) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(known[0][4])
        except OSError as error:
            found.append(f"{address}: {error.strerror}")
    return found


def _kernel(node: NodeConfig) -> KernelFacts:
    release = os.uname().release
    return KernelFacts(release, too_old(release), _nbd(), node.kernel_device, _io_uring())


def _nbd() -> Literal["loaded", "loadable", "missing"]:
    if Path("/sys/module/nbd").exists():
        return "loaded"
    # /sbin is not in everybody's PATH.
    program = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return "missing"
    try:
        done = subprocess.run(
            [program, "--dry-run", "nbd"],
            capture_output=True,
            timeout=_MODPROBE_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    return "loadable" if done.returncode == 0 else "missing"


def _io_uring() -> str | None:
    """Why io_uring cannot be used; tried, for a seccomp filter shows nowhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(_SETUP, 1, ctypes.create_string_buffer(_PARAMS_BYTES))
    if ring < 0:
        return os.strerror(ctypes.get_errno())
    os.close(ring)
    return None


def _watchdog(node: NodeConfig) -> WatchdogFacts:
    config = node.watchdog
    try:
        status = config.device.stat()
    except OSError:
        return WatchdogFacts(config.mode, str(config.device), present=False, identity="")
    name = config.device.resolve().name
    # /dev/watchdog is the first one, under the name that it had when there was but one.
    entry = "watchdog0" if name == "watchdog" else name
    try:
        identity = Path(f"/sys/class/watchdog/{entry}/identity").read_text().strip()
    except OSError:
        identity = ""
    return WatchdogFacts(config.mode, str(config.device), stat.S_ISCHR(status.st_mode), identity)


def _clock_offset() -> float | None:
    readings = Sensors().look().readings
    return next((reading.value for reading in readings if reading.kind == "clock"), None)


def _space(state: Path) -> SpaceFacts:
    # Before the first start there is no such directory yet.
    place = next(folder for folder in (state, *state.parents) if folder.exists())
    found = os.statvfs(place)
    return SpaceFacts(str(state), found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def _arrays() -> list[ArrayFacts]:
    found = sorted(Inventory().arrays().values(), key=lambda array: array.name)
    return [
        ArrayFacts(
            name=array.name,
            lost=lost(array),
            sound=healthy(array),
            survival=survival(array),
            until_whole=until_whole(array),
            mismatch_bytes=array.mismatch_bytes,
            scrubbed=array.sync is not None and array.sync.action in ("check", "repair"),
        )
        for array in found
    ]


def _copy(config: ResourceConfig) -> CopyFacts:
    try:
        from blockpair.bridge import read_metadata
    except ImportError as error:
        return CopyFacts(config.name, str(config.device), problem=f"the engine cannot be loaded: {error}")
    try:
        size = _size(config.device)
        for again in range(_READS):
            read = read_metadata(config, dump=False)
            states = [copy["state"] for copy in read["copies"]]
            if set(states) == {"valid"}:
                break
            if again < _READS - 1:
                time.sleep(_READ_PAUSE)
    except BlockpairError as error:
        return CopyFacts(config.name, str(config.device), problem=error.message)
    except OSError as error:
        why = f"{config.device} cannot be opened: {error.strerror}"
        return CopyFacts(config.name, str(config.device), problem=why)
    return CopyFacts(
        config.name,
        str(config.device),
        device_bytes=size,
        data_bytes=read["data_size_bytes"],
        block_bytes=read["block_size_bytes"],
        superblocks=states,
    )


def _size(device: Path) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
