"""``[fence.NODE]`` of cluster.toml: how NODE's power is cut by the others.

    [fence.beta]
    delay = "0s"
    levels = [
        [{ agent = "fence_ipmilan", options = { ip = "10.0.9.2", username = "fence", lanplus = true },
           password_file = "/etc/blockpair/fence/beta-bmc" }],
        [{ agent = "fence_apc_snmp", options = { ip = "10.0.9.8", plug = 1 } },
         { agent = "fence_apc_snmp", options = { ip = "10.0.9.9", plug = 1 } }],
    ]

(In a file, an inline table stands on one line.) Levels are tried in order; of a level, every device must say
off.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import field as key

from blockpair.config.files import ConfigError, explain
from blockpair.units import parse_duration

MAX_LEVELS = 4
MAX_DEVICES = 8
MAX_OPTIONS = 64
MAX_OPTION_CHARACTERS = 1024
MAX_DELAY = 300.0
MAX_TIMEOUT = 600.0
_AGENT = re.compile(r"fence_[a-z0-9_]{1,60}", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
# Said by blockpair itself, or kept out of a file that every node and many people read.
_RESERVED = frozenset({"action", "option", "nodename", "delay"})
# With these, an agent runs what it is told, or writes where it is told.
_DANGEROUS = frozenset({"debug", "debug_file", "debug-file", "ssh_options", "ssh-options"})
_SECRET = re.compile(r"(^|[_-])(password|passwd|secret|secret[_-]key|passphrase|token)$", re.ASCII)


class DeviceTable(Struct, forbid_unknown_fields=True, frozen=True):
    """A fence device. ``agent``: the agent's name or absolute path; ``options``: what it is told, by its own
    names. ``password_file``: an absolute path to what it is told as ``password``; ``secret_files``: the same
    for other secret options, by their names. ``timeout``: how long one action of it may take.
    """

    agent: str
    options: dict[str, str | int | bool] = key(default_factory=dict)
    password_file: str = ""
    secret_files: dict[str, str] = key(default_factory=dict)
    timeout: str = "60s"


class FenceTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[fence.NODE]``. ``delay``: how long whoever fences NODE waits first: NODE's head start where both
    fence each other.
    """

    levels: list[list[DeviceTable]]
    delay: str = "0s"


@dataclass(frozen=True)
class Device:
    """A fence device, checked. Times are seconds."""

    agent: str
    options: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, Path], ...] = field(default=(), repr=False)
    timeout: float = 60.0


@dataclass(frozen=True)
class NodeFence:
    """How a node's power is cut."""

    levels: tuple[tuple[Device, ...], ...]
    delay: float = 0.0

    @property
    def longest(self) -> float:
        """Seconds that it may take at most: each device of each level runs into its time-out twice."""
        return self.delay + sum(2 * device.timeout for _, device in self.devices)

    @property
    def devices(self) -> list[tuple[str, Device]]:
        """All of them, with a name for each: its place and its agent."""
        return [
            (f"{level}.{number} {Path(device.agent).name}", device)
            for level, devices in enumerate(self.levels, 1)
            for number, device in enumerate(devices, 1)
        ]


def fence_tables(raw: object, file: Path) -> dict[str, FenceTable]:
    """The tables below ``[fence]``, by node; ``raw`` is what TOML makes of it. Raises `ConfigError`."""
    found: dict[str, FenceTable] = {}
    for node, table in _convert(raw, dict[str, Any], "fence", file).items():
        found[node] = _convert(table, FenceTable, f"fence.{node}", file)
    return found


def node_fences(tables: Mapping[str, FenceTable], nodes: Collection[str], file: Path) -> dict[str, NodeFence]:
    """``tables``, checked; each names one of ``nodes``. Raises `ConfigError`."""
    found = {}
    for node, table in tables.items():
        where = f"fence.{node}"
        if node not in nodes:
            raise ConfigError(
                file,
                where,
                "there is no such node",
                f"name one of: {', '.join(sorted(nodes))}; or remove the table",
            )
        found[node] = _node_fence(table, where, file)
    return found


def read_fences(file: Path) -> dict[str, NodeFence]:
    """The fences in the cluster's configuration ``file``. Raises `ConfigError`, `FileNotFoundError`."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}", "run it as root") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(file, "", f"is not TOML: {error}", "correct that line") from None
    nodes = _convert(table.get("node", {}), dict[str, Any], "node", file)
    return node_fences(fence_tables(table.get("fence", {}), file), nodes, file)


def _convert(raw: object, form: type[Any], where: str, file: Path) -> Any:
    try:
        return msgspec.convert(raw, type=form)
    except msgspec.ValidationError as error:
        path, reason, remedy = explain(str(error), form)
        raise ConfigError(file, f"{where}.{path}".strip("."), reason, remedy) from None


def _node_fence(table: FenceTable, where: str, file: Path) -> NodeFence:
    if not 1 <= len(table.levels) <= MAX_LEVELS:
        raise ConfigError(
            file,
            f"{where}.levels",
            f"has {len(table.levels)} levels",
            f"write 1 to {MAX_LEVELS}; each is a list of devices that must all say off",
        )
    levels = []
    for at, level in enumerate(table.levels):
        here = f"{where}.levels[{at}]"
        if not 1 <= len(level) <= MAX_DEVICES:
            # An empty level would be one that succeeds by doing nothing.
            raise ConfigError(
                file,
                here,
                f"has {len(level)} devices",
                f"write 1 to {MAX_DEVICES}: each that must be off, such as every power supply's socket",
            )
        levels.append(tuple(_device(one, f"{here}[{number}]", file) for number, one in enumerate(level)))
    delay = _duration(table.delay, f"{where}.delay", 0, MAX_DELAY, file)
    return NodeFence(tuple(levels), delay)


def _device(table: DeviceTable, where: str, file: Path) -> Device:
    path = Path(table.agent)
    if _AGENT.fullmatch(path.name) is None or not (path.is_absolute() or table.agent == path.name):
        raise ConfigError(
            file,
            f"{where}.agent",
            f"{table.agent!r:.80} is not a fence agent",
            'write its name, such as "fence_ipmilan", or its absolute path; the name begins with fence_',
        )
    options = {
        name: _option(name, value, f"{where}.options.{name}", file) for name, value in table.options.items()
    }
    named = {**table.secret_files, **({"password": table.password_file} if table.password_file else {})}
    if len(options) + len(named) > MAX_OPTIONS:
        raise ConfigError(file, f"{where}.options", f"are more than {MAX_OPTIONS}", "remove some")
    secrets = {}
    for name, text in named.items():
        here = f"{where}.password_file" if text == table.password_file else f"{where}.secret_files.{name}"
        if _OPTION.fullmatch(name) is None or name in _RESERVED or name in options:
            raise ConfigError(file, here, f"{name!r:.80} is no option, or one twice", "correct its name")
        if not text.startswith("/") or "\0" in text or "\n" in text:
            raise ConfigError(
                file, here, f"{text!r:.80} is not an absolute path", "write the whole path of the file"
            )
        secrets[name] = Path(text)
    timeout = _duration(table.timeout, f"{where}.timeout", 1, MAX_TIMEOUT, file)
    return Device(table.agent, tuple(options.items()), tuple(secrets.items()), timeout)


def _option(name: str, value: str | int, where: str, file: Path) -> str:
    if _OPTION.fullmatch(name) is None:
        raise ConfigError(
            file, where, "is not the name of an option", "look it up in the agent's manual page"
        )
    if name in _RESERVED:
        raise ConfigError(file, where, "is said by blockpair itself", "remove it")
    if _SECRET.search(name):
        raise ConfigError(
            file,
            where,
            "is a secret, and this file is no place for one",
            "write it into a file for root alone, on each node, and name that: password_file = "
            f'"/etc/blockpair/fence/x"; for others than password: secret_files.{name}',
        )
    if name in _DANGEROUS or name.endswith("script"):
        raise ConfigError(
            file,
            where,
            "would let whoever writes this file run or write anything on the other nodes",
            "remove it; a password goes into password_file",
        )
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if len(text) > MAX_OPTION_CHARACTERS or not text.isprintable():
        raise ConfigError(
            file,
            where,
            f"is not a line of {MAX_OPTION_CHARACTERS} printable characters at most",
            "correct the value",
        )
    return text


def _duration(text: str, where: str, least: float, most: float, file: Path) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigError(file, where, str(error), "correct the value") from None
    if not least <= seconds <= most:
        raise ConfigError(
            file, where, f"{text} is not from {least:g} to {most:g} seconds", "choose a value in that range"
        )
    return seconds


def check_pair(fences: Mapping[str, NodeFence], pair: Collection[str], file: Path) -> None:
    """Raises `ConfigError` where the nodes of a resource that is arbitrated by fencing could not fence each
    other, or would at the same moment.
    """
    for node in pair:
        if node not in fences:
            raise ConfigError(
                file,
                f"fence.{node}",
                'is missing, and arbiter kind = "fence" needs one for every node with a copy',
                f"add [fence.{node}] with its levels",
            )
    delays = {node: fences[node].delay for node in pair}
    if len(set(delays.values())) < len(delays):
        first, *others = sorted(delays)
        raise ConfigError(
            file,
            f"fence.{first}.delay",
            f"is the same as {' and '.join(others)}'s: where their link is cut, each switches the other off",
            "give the one that shall survive a head start, longer than a fencing takes: "
            f'delay = "15s" in [fence.{first}] keeps {first}',
        )
