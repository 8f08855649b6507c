"""``blockpair.toml``: what is true of the node, whatever its resources."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from dataclasses import field as data_field
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from blockpair.config.files import ConfigError, read_toml
from blockpair.config.health import HealthConfig, HealthTable, health_config
from blockpair.config.metrics import MetricsTable, metrics_address
from blockpair.config.names import NAME_RULE, Address, check_name, parse_address
from blockpair.config.notify import NotifyConfig, NotifyTable, notify_config
from blockpair.config.raid import RaidConfig, RaidTable, raid_config
from blockpair.units import parse_duration

KernelDevice = Literal["auto", "off", "required"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
WatchdogMode = Literal["off", "log", "required"]

# Longer than any lease that may be configured is of no use: it would bite after the peer has gone on.
_WATCHDOG_SECONDS = (1, 300)


class NodeTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[node]``."""

    name: str = ""
    listen: str = "0.0.0.0:7788"
    control: str = "0.0.0.0:7789"
    kernel_device: KernelDevice = "auto"


class WatchdogTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[watchdog]``. ``mode``: "off"; "log": it is only told of; "required": this node becomes Primary of a
    resource that an arbiter decides about only with the watchdog ``device`` armed, which resets the machine
    ``timeout`` after it could last be shown that it may serve.
    """

    mode: WatchdogMode = "off"
    device: str = "/dev/watchdog"
    timeout: str = "10s"


class LogTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[log]``."""

    format: LogFormat = "auto"
    level: LogLevel = "info"


class NodeFile(Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    node: NodeTable = field(default_factory=NodeTable)
    log: LogTable = field(default_factory=LogTable)
    watchdog: WatchdogTable = field(default_factory=WatchdogTable)
    metrics: MetricsTable = field(default_factory=MetricsTable)
    health: HealthTable = field(default_factory=HealthTable)
    notify: NotifyTable = field(default_factory=NotifyTable)
    raid: RaidTable = field(default_factory=RaidTable)


@dataclass(frozen=True)
class WatchdogConfig:
    """The node's watchdog, checked; ``timeout`` in whole seconds."""

    mode: WatchdogMode
    device: Path
    timeout: int


@dataclass(frozen=True)
class NodeConfig:
    """The node's configuration, checked."""

    name: str
    listen: Address
    control: Address
    kernel_device: KernelDevice
    log_format: LogFormat
    log_level: LogLevel
    watchdog: WatchdogConfig = WatchdogConfig("off", Path("/dev/watchdog"), 10)
    metrics: Address | None = None
    """Where the metrics are served; None: nowhere."""
    health: HealthConfig = data_field(default_factory=HealthConfig)
    notify: NotifyConfig = data_field(default_factory=NotifyConfig)
    raid: RaidConfig = data_field(default_factory=RaidConfig)
    written: NodeFile = data_field(default_factory=NodeFile, compare=False)
    """The file as it is."""


def read_node(file: Path) -> NodeConfig:
    """The node's configuration; defaults where the file is not there. Raises `ConfigError`."""
    try:
        content = read_toml(file, NodeFile)
    except FileNotFoundError:
        content = NodeFile()
    return node_config(content, file, socket.gethostname())


def node_config(content: NodeFile, file: Path, host_name: str) -> NodeConfig:
    """``content``, checked; the node is named after ``host_name`` unless it says otherwise. Raises
    `ConfigError`.
    """
    name = content.node.name or host_name.partition(".")[0].lower()
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(file, "node.name", str(error), f"set name in [node]; {NAME_RULE}") from None
    addresses = []
    for key, text, default in (
        ("listen", content.node.listen, "0.0.0.0:7788"),
        ("control", content.node.control, "0.0.0.0:7789"),
    ):
        try:
            addresses.append(parse_address(text, any_port=True))
        except ValueError as error:
            raise ConfigError(file, f"node.{key}", str(error), f'write it as {key} = "{default}"') from None
    listen, control = addresses
    return NodeConfig(
        name,
        listen,
        control,
        content.node.kernel_device,
        content.log.format,
        content.log.level,
        _watchdog(content.watchdog, file),
        metrics=metrics_address(content.metrics, file),
        health=health_config(content.health, file),
        notify=notify_config(content.notify, file),
        raid=raid_config(content.raid, file),
        written=content,
    )


def _watchdog(table: WatchdogTable, file: Path) -> WatchdogConfig:
    if not table.device.startswith("/") or "\0" in table.device:
        raise ConfigError(
            file,
            "watchdog.device",
            f"{table.device!r} is not an absolute path",
            'write it as device = "/dev/watchdog"',
        )
    try:
        seconds = parse_duration(table.timeout)
    except ValueError as error:
        raise ConfigError(file, "watchdog.timeout", str(error), 'write it as timeout = "10s"') from None
    least, most = _WATCHDOG_SECONDS
    if seconds != int(seconds) or not least <= seconds <= most:
        raise ConfigError(
            file,
            "watchdog.timeout",
            f"{table.timeout} is not a whole number of seconds from {least} to {most}",
            'choose one in that range, as timeout = "10s"',
        )
    return WatchdogConfig(table.mode, Path(table.device), int(seconds))
