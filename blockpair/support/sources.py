"""What goes into a support archive: the daemon's answers, this node's files, the machine's facts."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from blockpair import __version__
from blockpair.config.fence import read_fences
from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.events import query
from blockpair.events.event import Filter
from blockpair.history import read_history
from blockpair.support.archive import MOST_BYTES, Source
from blockpair.units import utc

_COMMAND_SECONDS = 20
_ENTRIES = 10_000
_LEAST_SECRET = 4
_UNIT = "blockpaird"
# A method of the daemon, with parameters; the answer is JSON text.
Call = Callable[[str, dict[str, Any]], bytes]

_COMMANDS: dict[str, Sequence[str]] = {
    "machine/addresses.txt": ("ip", "-statistics", "address"),
    "machine/block-devices.json": (
        "lsblk",
        "--json",
        "--bytes",
        "--output",
        "NAME,SIZE,TYPE,FSTYPE,MOUNTPOINTS,RO,ROTA,SCHED,PHY-SEC,LOG-SEC,MODEL",
    ),
    "machine/clock.txt": ("timedatectl", "show"),
    "machine/firewall.txt": ("nft", "list", "ruleset"),
    "machine/kernel-log.txt": ("dmesg", "--time-format", "iso"),
    "machine/listeners.txt": ("ss", "-ltnp"),
    "machine/mdadm.txt": ("mdadm", "--version"),
    "machine/routes.txt": ("ip", "route", "show", "table", "all"),
    "machine/unit.txt": ("systemctl", "show", _UNIT),
}
_FILES = (
    "/etc/os-release",
    "/proc/loadavg",
    "/proc/mdstat",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/sys/kernel/io_uring_disabled",
    "/proc/version",
)
_ANSWERS = {
    "checks.json": "node.checks",
    "cluster.json": "cluster.status",
    "configuration.json": "config.show",
    "configuration-history.json": "config.history",
    "daemon.json": "daemon.info",
    "health.json": "node.health",
    "status.json": "resource.status",
}


def sources(places: Locations, call: Call, *, log: str | None, hours: float) -> Iterator[Source]:
    """All of it. ``log``: the file that the daemon logs to, None: the journal; ``hours``: how much of events
    and logs.
    """
    since = datetime.now(UTC) - timedelta(hours=hours)
    yield Source("versions.json", _versions)
    for name, method in _ANSWERS.items():
        params: dict[str, Any] = {"limit": 500} if method == "config.history" else {}
        yield Source(name, partial(_answer, call, method, params))
    for file in (places.node_file, places.cluster_file, *sorted(places.resources.glob("*.toml"))):
        yield Source(f"config/{file.name}", partial(file.read_text, errors="replace"))
    for file in sorted(places.resources.glob("*.toml")):
        params = {"name": file.stem, "dump": False}
        yield Source(f"metadata/{file.stem}.json", partial(_answer, call, "resource.metadata", params))
    for file in sorted(places.history_file("x").parent.glob("*.jsonl")):
        yield Source(f"history/{file.name}", partial(_history, file))
    yield Source("events.jsonl", partial(_events, places.events, since))
    if log is None:
        command = ("journalctl", "--unit", _UNIT, "--no-pager", "--output", "short-iso-precise")
        yield Source("log.txt", partial(_output, (*command, "--since", f"@{since.timestamp():.0f}")))
    else:
        yield Source("log.txt", partial(_end_of, Path(log)))
    for name, words in _COMMANDS.items():
        yield Source(name, partial(_output, words))
    for path in _FILES:
        yield Source(f"machine{path}", partial(Path(path).read_text, errors="replace"))


def secrets(node: NodeConfig | None, places: Locations) -> set[str]:
    """What must not be in it, wherever it might be: the lines of this node's files of secrets, and what
    follows the host in the URLs of webhooks.
    """
    files = list(places.trust.rglob("*.key"))
    found: set[str] = set()
    if node is not None:
        for webhook in node.notify.webhooks.values():
            place = urlsplit(webhook.url)
            found.add(f"{place.path}?{place.query}" if place.query else place.path)
            files += [] if webhook.token_file is None else [webhook.token_file]
        mail = node.notify.mail
        files += [] if mail is None or mail.password_file is None else [mail.password_file]
    with contextlib.suppress(BlockpairError, OSError):
        for fence in read_fences(places.cluster_file).values():
            for level in fence.levels:
                files += [path for device in level for _, path in device.secrets]
    for file in files:
        with contextlib.suppress(OSError):
            found.update(line.strip() for line in file.read_text(errors="replace").splitlines())
    # A shorter one would be found in every second word, and guessed as quickly.
    return {secret for secret in found if len(secret) >= _LEAST_SECRET}


def _answer(call: Call, method: str, params: dict[str, Any]) -> str:
    return msgspec.json.format(call(method, params), indent=2).decode() + "\n"


def _versions() -> str:
    own: dict[str, str] = {dist.metadata["Name"]: dist.version for dist in distributions()}
    facts: dict[str, Any] = {
        "blockpair": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "packages": dict(sorted(own.items())),
    }
    return msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n"


def _history(file: Path) -> str:
    entries = read_history(file, _ENTRIES)
    return "".join(msgspec.json.encode(entry).decode() + "\n" for entry in entries)


def _events(folder: Path, since: datetime) -> str:
    found = query.newest(folder, Filter(), utc(since), _ENTRIES).events
    return "".join(msgspec.json.encode(event).decode() + "\n" for event in found)


def _end_of(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - MOST_BYTES))
        return stream.read(MOST_BYTES).decode(errors="replace")


def _output(words: Sequence[str]) -> str:
    """What a program prints. Raises `BlockpairError` where it cannot be run."""
    # /sbin is not in everybody's PATH.
    program = shutil.which(words[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise BlockpairError(ErrorKind.NOT_FOUND, f"there is no {words[0]} here")
    try:
        done = subprocess.run(
            [program, *words[1:]],
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise BlockpairError(
            ErrorKind.TIMEOUT, f"{words[0]} did not end within {_COMMAND_SECONDS} s"
        ) from None
    text = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode != 0:
        told = deque(text.splitlines(), maxlen=1)
        raise BlockpairError(ErrorKind.FAILED, f"{words[0]} ended with {done.returncode}: {''.join(told)}")
    return text
