"""``blockpair.toml``: what is true of the node, whatever its resources."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from blockpair.config.files import ConfigError, read_toml
from blockpair.config.names import NAME_RULE, Address, check_name, parse_address

KernelDevice = Literal["auto", "off", "required"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


class NodeTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[node]``."""

    name: str = ""
    listen: str = "0.0.0.0:7788"
    control: str = "0.0.0.0:7789"
    kernel_device: KernelDevice = "auto"


class LogTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[log]``."""

    format: LogFormat = "auto"
    level: LogLevel = "info"


class NodeFile(Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    node: NodeTable = field(default_factory=NodeTable)
    log: LogTable = field(default_factory=LogTable)


@dataclass(frozen=True)
class NodeConfig:
    """The node's configuration, checked."""

    name: str
    listen: Address
    control: Address
    kernel_device: KernelDevice
    log_format: LogFormat
    log_level: LogLevel


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
        name, listen, control, content.node.kernel_device, content.log.format, content.log.level
    )
