"""``resources/NAME.toml``: one replicated device, as this node sees it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from blockpair.config.arbiter import MANUAL, ArbiterChoice
from blockpair.config.arbitration import PROFILES, ArbitrationTable, Timing, timing
from blockpair.config.files import ConfigError, read_toml, write_atomically
from blockpair.config.names import Address, check_name, is_loopback, parse_address
from blockpair.config.node import KernelDevice
from blockpair.units import format_size, parse_duration, parse_size

Protocol = Literal["A", "B", "C"]
SplitBrainPolicy = Literal[
    "manual",
    "discard-zero-changes",
    "discard-least-changes",
    "discard-older-primary",
    "discard-younger-primary",
    "priority",
]
OnIoError = Literal["detach", "pass-on"]
DiskDriver = Literal["auto", "inline", "io_uring", "threads"]
Tls = Literal["on", "off"]

DEFAULT_POLICY: SplitBrainPolicy = "discard-zero-changes"
MAX_PRIORITY = 1_000_000
DEFAULT_WARM_UP = "64M"
MAX_WARM_UP = 64 << 20
MIN_BLOCK_SIZE = 4 << 10
MAX_BLOCK_SIZE = 1 << 20
# Metadata and protocol have room for more; what decides between nodes is written for two.
MAX_PEERS = 1
INTERNAL = "internal"
_BY_HAND = "A blockpair resource on this node. Changes take effect at the next `blockpair up`."


class PeerTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[[peer]]``. Exactly one of ``address`` and ``addresses``, the preferred one first; or ``lost``: the
    node is gone for good, and nobody is spoken to until it has a successor.
    """

    name: str
    address: str = ""
    addresses: list[str] = field(default_factory=list)
    lost: bool = False


class TimeoutsTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[timeouts]``. ``peer``: silence after which a peer counts as lost. ``resume_wait``: how long a
    restarted Primary waits for its peer's word before it goes on alone."""

    peer: str = "3s"
    resume_wait: str = "5s"


class NbdTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[nbd]``. ``queues``: connections of the kernel device; 0: one, see ADR 4.
    ``sector_size``: its logical block, in bytes. ``dead_connection_timeout``: how long I/O on it waits for a
    daemon that is away before it fails.
    """

    kernel_device: KernelDevice | None = None
    queues: int = 0
    sector_size: int = 4096
    dead_connection_timeout: str = "10m"


class ResourceFile(Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file. ``split_brain``: who loses a split brain without a person; ``priority``: this node's,
    for the policy of that name: the higher one survives. ``on_io_error``: what an error of the backing device
    means. ``tls``: whether the nodes' connections are encrypted and authenticated; "off" for loopback alone.
    ``arbiter``: the kind of the cluster's, or "manual": a person decides who goes on. ``warm_up``: how much
    of what the Primary reads most is read ahead at a take-over.
    """

    device: str
    metadata: str
    peer: list[PeerTable]
    block_size: str = "4K"
    protocol: Protocol = "C"
    split_brain: SplitBrainPolicy = DEFAULT_POLICY
    priority: int = 0
    on_io_error: OnIoError = "detach"
    disk_driver: DiskDriver = "auto"
    warm_up: str = DEFAULT_WARM_UP
    tls: Tls = "on"
    arbiter: ArbiterChoice = MANUAL
    arbitration: ArbitrationTable = field(default_factory=ArbitrationTable)
    timeouts: TimeoutsTable = field(default_factory=TimeoutsTable)
    nbd: NbdTable = field(default_factory=NbdTable)


@dataclass(frozen=True)
class Peer:
    """Another node that keeps a copy."""

    name: str
    addresses: tuple[Address, ...]
    """The preferred one first; none: the node is lost."""

    @property
    def address(self) -> str:
        """The preferred one, for a person."""
        return str(self.addresses[0]) if self.addresses else "lost"


@dataclass(frozen=True)
class ResourceConfig:
    """A resource's configuration, checked. Times are seconds, sizes bytes; ``metadata`` is None where it is
    internal.
    """

    name: str
    device: Path
    metadata: Path | None
    peers: tuple[Peer, ...]
    block_size: int = MIN_BLOCK_SIZE
    protocol: Protocol = "C"
    split_brain: SplitBrainPolicy = DEFAULT_POLICY
    priority: int = 0
    on_io_error: OnIoError = "detach"
    disk_driver: DiskDriver = "auto"
    warm_up: int = MAX_WARM_UP
    tls: bool = True
    arbiter: ArbiterChoice = MANUAL
    arbitration: Timing = PROFILES["default"]
    peer_timeout: float = 3.0
    resume_wait: float = 5.0
    kernel_device: KernelDevice | None = None
    queues: int = 0
    sector_size: int = 4096
    dead_connection_timeout: float = 600.0

    @property
    def automatic(self) -> bool:
        """Whether a node may go on without a person. By protocol A the survivor may lack what was
        acknowledged: then only where the other node is proven to be off.
        """
        return self.arbiter == "fence" or (self.arbiter != MANUAL and self.protocol != "A")

    def metadata_spec(self) -> dict[str, str]:
        """Where the metadata is, in the engine's words."""
        if self.metadata is None:
            return {"kind": "internal"}
        return {"kind": "external", "path": str(self.metadata)}


# Keys of the file that are called otherwise in `ResourceConfig`.
_KEYS = {
    "peer_timeout": "timeouts.peer",
    "resume_wait": "timeouts.resume_wait",
    "kernel_device": "nbd.kernel_device",
    "queues": "nbd.queues",
    "sector_size": "nbd.sector_size",
    "dead_connection_timeout": "nbd.dead_connection_timeout",
}


def changed_keys(old: ResourceConfig, new: ResourceConfig) -> list[str]:
    """The keys by which two configurations of a resource differ, wherever its peers are."""
    names = [field.name for field in fields(ResourceConfig) if field.name != "peers"]
    return [_KEYS.get(name, name) for name in names if getattr(old, name) != getattr(new, name)]


def read_resource(file: Path, node: str) -> ResourceConfig:
    """The resource that ``file`` describes, named after it. Raises `ConfigError`, `FileNotFoundError`."""
    return resource_config(read_toml(file, ResourceFile), file, node)


def resource_config(content: ResourceFile, file: Path, node: str) -> ResourceConfig:
    """``content``, checked, for the node of name ``node``. Raises `ConfigError`."""
    name = file.name.removesuffix(".toml")
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(file, "", str(error), "rename the file") from None
    nbd = content.nbd
    if not 0 <= nbd.queues <= 16:
        raise ConfigError(
            file, "nbd.queues", f"{nbd.queues} is not from 0 to 16", "write 0 for the default: one"
        )
    if nbd.sector_size not in (512, 4096):
        raise ConfigError(
            file,
            "nbd.sector_size",
            f"{nbd.sector_size} is neither 512 nor 4096",
            "write 4096, or 512 for what was made on a disk of such sectors",
        )
    if not 0 <= content.priority <= MAX_PRIORITY:
        raise ConfigError(
            file,
            "priority",
            f"{content.priority} is not from 0 to {MAX_PRIORITY}",
            "choose a number in that range; the node with the higher one keeps its changes",
        )
    peers = _peers(file, content.peer, node)
    if content.tls == "off":
        _check_plain(file, peers)
    return ResourceConfig(
        name=name,
        device=_path(file, "device", content.device),
        metadata=None if content.metadata == INTERNAL else _path(file, "metadata", content.metadata),
        peers=peers,
        block_size=_block_size(file, content.block_size),
        protocol=content.protocol,
        split_brain=content.split_brain,
        priority=content.priority,
        on_io_error=content.on_io_error,
        disk_driver=content.disk_driver,
        warm_up=_warm_up(file, content.warm_up),
        tls=content.tls == "on",
        arbiter=content.arbiter,
        arbitration=timing(file, content.arbitration),
        peer_timeout=_duration(file, "timeouts.peer", content.timeouts.peer, 0.1, 300),
        resume_wait=_duration(file, "timeouts.resume_wait", content.timeouts.resume_wait, 0, 3600),
        kernel_device=nbd.kernel_device,
        queues=nbd.queues,
        sector_size=nbd.sector_size,
        dead_connection_timeout=_duration(
            file, "nbd.dead_connection_timeout", nbd.dead_connection_timeout, 1, 7 * 24 * 3600
        ),
    )


def check_block_size(size: int) -> int:
    """``size``, if blocks may have it. Raises `ValueError` that states the rule."""
    if not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE or size & (size - 1):
        raise ValueError(f"a block size of {format_size(size)} is not a power of two from 4 KiB to 1 MiB")
    return size


def _path(file: Path, key: str, value: str) -> Path:
    if not value.startswith("/") or "\0" in value:
        raise ConfigError(
            file, key, f"{value!r} is not an absolute path", f"write the whole path of the {key}"
        )
    return Path(value)


def _block_size(file: Path, value: str) -> int:
    try:
        return check_block_size(parse_size(value))
    except ValueError as error:
        raise ConfigError(file, "block_size", str(error), 'write it as block_size = "4K"') from None


def _warm_up(file: Path, value: str) -> int:
    try:
        size = parse_size(value)
    except ValueError as error:
        raise ConfigError(file, "warm_up", str(error), 'write it as warm_up = "16M"') from None
    if size > MAX_WARM_UP:
        raise ConfigError(
            file,
            "warm_up",
            f"{format_size(size)} is more than {format_size(MAX_WARM_UP)}",
            'write at most warm_up = "64M"; "0" switches it off',
        )
    return size


def _duration(file: Path, key: str, value: str, least: float, most: float) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise ConfigError(file, key, str(error), "correct the value") from None
    if not least <= seconds <= most:
        raise ConfigError(
            file, key, f"{value} is not from {least:g} to {most:g} seconds", "choose a value in that range"
        )
    return seconds


def _peers(file: Path, tables: list[PeerTable], node: str) -> tuple[Peer, ...]:
    if not tables:
        raise ConfigError(file, "peer", "there is no peer", "add a [[peer]] with name and address")
    if len(tables) > MAX_PEERS:
        raise ConfigError(
            file, "peer", f"{len(tables)} peers are too many", "a resource has two nodes: keep one peer"
        )
    peers: list[Peer] = []
    for index, table in enumerate(tables):
        key = f"peer[{index}]"
        try:
            name = check_name(table.name)
        except ValueError as error:
            raise ConfigError(file, f"{key}.name", str(error), "write the peer's node name") from None
        if name == node:
            raise ConfigError(
                file,
                f"{key}.name",
                f"{name!r} is this node itself",
                "name the other node, or rename one of them",
            )
        peers.append(Peer(name, _addresses(file, key, table)))
    return tuple(peers)


def _addresses(file: Path, key: str, table: PeerTable) -> tuple[Address, ...]:
    if table.lost:
        if table.address or table.addresses:
            raise ConfigError(
                file, f"{key}.lost", "a node that is lost has no address", "remove the one or the other"
            )
        return ()
    if bool(table.address) == bool(table.addresses):
        raise ConfigError(
            file,
            f"{key}.address",
            "address and addresses are both given" if table.address else "is missing",
            "write one address, or addresses with the preferred one first",
        )
    found: list[Address] = []
    for index, text in enumerate(table.addresses or [table.address]):
        where = f"{key}.addresses[{index}]" if table.addresses else f"{key}.address"
        try:
            address = parse_address(text)
        except ValueError as error:
            raise ConfigError(file, where, str(error), 'write it as "10.0.0.2:7788"') from None
        if address in found:
            raise ConfigError(file, where, f"{address} is there twice", "remove one of them")
        found.append(address)
    return tuple(found)


def _check_plain(file: Path, peers: tuple[Peer, ...]) -> None:
    """Raises `ConfigError` where a connection without TLS would leave this machine."""
    for peer in peers:
        for address in peer.addresses:
            if not is_loopback(address.host):
                raise ConfigError(
                    file,
                    "tls",
                    f'"off" is for loopback addresses alone, and {peer.name} is at {address}',
                    'remove it, or write tls = "on"; nodes that trust each other are made by'
                    " `blockpair cluster init`",
                )


def resource_text(content: ResourceFile, comment: str = _BY_HAND) -> str:
    """The text of a resource file: what differs from the defaults, and the keys an administrator looks for
    first. ``comment`` is its first line.
    """
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment(comment))
    values: dict[str, Any] = {
        "device": content.device,
        "metadata": content.metadata,
        "block_size": content.block_size,
        "protocol": content.protocol,
    }
    defaults: dict[str, Any] = {
        "split_brain": DEFAULT_POLICY,
        "priority": 0,
        "on_io_error": "detach",
        "disk_driver": "auto",
        "warm_up": DEFAULT_WARM_UP,
        "tls": "on",
        "arbiter": MANUAL,
    }
    values |= {key: getattr(content, key) for key in defaults if getattr(content, key) != defaults[key]}
    for key, value in values.items():
        document.add(key, value)
    for key, table, default in (
        ("arbitration", content.arbitration, ArbitrationTable()),
        ("timeouts", content.timeouts, TimeoutsTable()),
        ("nbd", content.nbd, NbdTable()),
    ):
        changed = {
            name: getattr(table, name)
            for name in table.__struct_fields__
            if getattr(table, name) != getattr(default, name)
        }
        if changed:
            section = tomlkit.table()
            section.update(changed)
            document.add(key, section)
    peers = tomlkit.aot()
    for peer in content.peer:
        entry = tomlkit.table()
        entry["name"] = peer.name
        if peer.lost:
            entry["lost"] = True
        elif peer.addresses:
            entry["addresses"] = peer.addresses
        else:
            entry["address"] = peer.address
        peers.append(entry)
    document.add("peer", peers)
    return tomlkit.dumps(document)


def write_resource(file: Path, content: ResourceFile) -> None:
    """Write a resource file durably. Raises `OSError`."""
    write_atomically(file, resource_text(content))
