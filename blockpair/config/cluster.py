"""``cluster.toml``: what the nodes of a cluster have in common, the same text on each of them."""

from __future__ import annotations

import ipaddress
import tomllib
import uuid
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct, field

from blockpair.config.arbiter import MANUAL, ArbiterChoice, ArbiterTable, check_arbiter
from blockpair.config.arbitration import ArbitrationTable
from blockpair.config.fence import FenceTable, check_pair, fence_tables, node_fences
from blockpair.config.files import ConfigError, explain
from blockpair.config.names import Address, check_host, check_name
from blockpair.config.resource import (
    DEFAULT_POLICY,
    DEFAULT_WARM_UP,
    DiskDriver,
    NbdTable,
    OnIoError,
    PeerTable,
    Protocol,
    ResourceFile,
    SplitBrainPolicy,
    TimeoutsTable,
    Tls,
    resource_config,
)
from blockpair.config.service import ServiceTable, service_config

MAX_CLUSTER_BYTES = 256 << 10
# A connection a path and resource: a node has a few networks, not dozens.
MAX_ADDRESSES = 8
# Every copy of a resource is on two nodes; what decides between nodes is written for two.
COPIES = 2
DEFAULT_PORT = 7788
DEFAULT_CONTROL_PORT = 7789
_Form = TypeVar("_Form")


class NodeEntry(Struct, forbid_unknown_fields=True, frozen=True):
    """``[node.NAME]``. ``addresses``: hosts without a port, the preferred one first; ``port``: replication;
    ``control_port``: calls between daemons. ``lost``: the node is gone for good, and no member any more; its
    place, with its copies, is kept for a successor of its name.
    """

    addresses: list[str]
    port: int = DEFAULT_PORT
    control_port: int = DEFAULT_CONTROL_PORT
    lost: bool = False


class CopyEntry(Struct, forbid_unknown_fields=True, frozen=True):
    """``[resource.NAME.on.NODE]``: one node's copy. ``metadata``: an absolute path, or "internal"."""

    device: str
    metadata: str
    priority: int = 0


class ResourceEntry(Struct, forbid_unknown_fields=True, frozen=True):
    """``[resource.NAME]``; the keys beside ``on`` mean what they mean in `ResourceFile`. ``arbiter``:
    "manual" for a resource that does not go by the cluster's.
    """

    on: dict[str, CopyEntry]
    block_size: str = "4K"
    protocol: Protocol = "C"
    split_brain: SplitBrainPolicy = DEFAULT_POLICY
    on_io_error: OnIoError = "detach"
    disk_driver: DiskDriver = "auto"
    warm_up: str = DEFAULT_WARM_UP
    tls: Tls = "on"
    arbiter: Literal["manual"] | None = None
    arbitration: ArbitrationTable = field(default_factory=ArbitrationTable)
    timeouts: TimeoutsTable = field(default_factory=TimeoutsTable)
    nbd: NbdTable = field(default_factory=NbdTable)
    service: ServiceTable = field(default_factory=ServiceTable)
    """What follows the data; by default nothing."""


class ClusterTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[cluster]``. ``id``: a UUID; it stays when the name changes."""

    name: str
    id: str


class ClusterFile(Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    cluster: ClusterTable
    node: dict[str, NodeEntry]
    arbiter: ArbiterTable = field(default_factory=ArbiterTable)
    fence: dict[str, FenceTable] = field(default_factory=dict)
    resource: dict[str, ResourceEntry] = field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        """The nodes that are not lost."""
        return [name for name, entry in self.node.items() if not entry.lost]


def parse_cluster(text: str, file: Path) -> ClusterFile:
    """The configuration in ``text``, checked; ``file`` is what errors call it. Raises `ConfigError`."""
    if len(text.encode()) > MAX_CLUSTER_BYTES:
        raise ConfigError(
            file, "", f"is larger than {MAX_CLUSTER_BYTES} bytes", "remove comments or resources"
        )
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, and so is what Python says of a number of thousands of digits.
        raise ConfigError(file, "", f"is not TOML: {error}", "correct that line") from None
    content = _convert(table, file)
    check_cluster(content, file)
    return content


class _Outline(Struct, forbid_unknown_fields=True):
    """The tables whose keys are names. msgspec does not say in which of them a fault is, so each is converted
    by itself.
    """

    cluster: ClusterTable
    node: dict[str, Any]
    arbiter: dict[str, Any] = field(default_factory=dict)
    fence: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, dict[str, Any]] = field(default_factory=dict)


def _convert(table: dict[str, Any], file: Path) -> ClusterFile:
    outline = _part(table, _Outline, "", file)
    resources: dict[str, ResourceEntry] = {}
    for name, raw in outline.resource.items():
        key = f"resource.{name}"
        copies = _part(raw.get("on", {}), dict[str, Any], f"{key}.on", file)
        on = {node: _part(copy, CopyEntry, f"{key}.on.{node}", file) for node, copy in copies.items()}
        resources[name] = msgspec.structs.replace(_part({**raw, "on": {}}, ResourceEntry, key, file), on=on)
    nodes = {name: _part(raw, NodeEntry, f"node.{name}", file) for name, raw in outline.node.items()}
    arbiter = _part(outline.arbiter, ArbiterTable, "arbiter", file)
    return ClusterFile(outline.cluster, nodes, arbiter, fence_tables(outline.fence, file), resources)


def _part(value: Any, form: type[_Form], where: str, file: Path) -> _Form:
    try:
        return msgspec.convert(value, type=form)
    except msgspec.ValidationError as error:
        key, reason, remedy = explain(str(error), form)
        raise ConfigError(file, f"{where}.{key}".strip("."), reason, remedy) from None


def check_cluster(content: ClusterFile, file: Path) -> None:
    """Raises `ConfigError` where ``content`` contradicts itself or a rule."""
    _check_name(file, "cluster.name", content.cluster.name)
    try:
        uuid.UUID(content.cluster.id)
    except ValueError:
        raise ConfigError(
            file, "cluster.id", f"{content.cluster.id!r} is not a UUID", "leave it as `cluster init` wrote it"
        ) from None
    if not content.node:
        raise ConfigError(file, "node", "there is no node", "a cluster has at least one [node.NAME]")
    endpoints: dict[Address, str] = {}
    for name, node in content.node.items():
        _check_node(file, name, node)
        # Where a lost node was, another may be by now.
        for host in () if node.lost else node.addresses:
            named = f"[{host}]" if ":" in host else host
            ports = (("port", "listen", node.port), ("control_port", "control", node.control_port))
            for key, own_key, port in ports:
                here = f"node.{name}.{key}"
                other = endpoints.setdefault(Address(host, port), here)
                if other != here:
                    raise ConfigError(
                        file,
                        here,
                        f"{Address(host, port)} is {other} too",
                        f"choose another address; or another port, on {name}, in its blockpair.toml under "
                        f'[node]: {own_key} = "{named}:PORT", and restart its blockpaird',
                    )
    _check_fences(content, file)
    check_arbiter(file, content.arbiter, {name: content.node[name].addresses for name in content.members})
    places: dict[tuple[str, str], str] = {}
    for name, resource in content.resource.items():
        _check_resource(file, name, resource, content)
        for node_name, copy in resource.on.items():
            for key in ("device", "metadata"):
                place = getattr(copy, key)
                here = f"resource.{name}.on.{node_name}.{key}"
                other = places.setdefault((node_name, place), here) if place != "internal" else here
                if other != here:
                    raise ConfigError(file, here, f"{place} is {other} too", "choose another device or path")
    _check_services(file, content)


def _check_services(file: Path, content: ClusterFile) -> None:
    """What two resources would both claim: any two may be on one node."""
    owners: dict[str, str] = {}
    for name, resource in content.resource.items():
        key = f"resource.{name}.service"
        service = service_config(resource.service, file, key)
        claims = [(f"{key}.vips[{index}]", vip.address) for index, vip in enumerate(service.vips)]
        claims += [(f"{key}.units[{index}]", unit) for index, unit in enumerate(service.units)]
        claims += [] if service.mount is None else [(f"{key}.mount", str(service.mount))]
        for here, claim in claims:
            other = owners.setdefault(claim, here)
            if other != here:
                raise ConfigError(file, here, f"{claim} is {other} too", "each belongs to one resource")


def cluster_text(content: ClusterFile) -> str:
    """``content`` as a file of its own, without what has its default."""
    import tomlkit

    document = tomlkit.document()
    document.add(
        tomlkit.comment("The configuration of the whole cluster. Change it with `blockpair config edit`.")
    )
    for key, value in as_tables(content).items():
        document.add(key, value)
    return tomlkit.dumps(document)


def resources_on(content: ClusterFile, node: str) -> dict[str, ResourceFile]:
    """The resources that have a copy on ``node``, by name, as that node's resource files say them."""
    return {
        name: resource_on(content, name, node) for name, entry in content.resource.items() if node in entry.on
    }


def resource_on(content: ClusterFile, name: str, node: str) -> ResourceFile:
    """The resource ``name`` as ``node`` sees it: its own copy, the other nodes as peers."""
    entry = content.resource[name]
    own = entry.on[node]
    return ResourceFile(
        device=own.device,
        metadata=own.metadata,
        peer=[
            PeerTable(other, lost=True)
            if content.node[other].lost
            else PeerTable(other, addresses=[str(address) for address in addresses(content.node[other])])
            for other in entry.on
            if other != node
        ],
        block_size=entry.block_size,
        protocol=entry.protocol,
        split_brain=entry.split_brain,
        priority=own.priority,
        on_io_error=entry.on_io_error,
        disk_driver=entry.disk_driver,
        warm_up=entry.warm_up,
        tls=entry.tls,
        arbiter=arbiter_of(content, entry),
        arbitration=entry.arbitration,
        timeouts=entry.timeouts,
        nbd=entry.nbd,
    )


def arbiter_of(content: ClusterFile, entry: ResourceEntry) -> ArbiterChoice:
    """The kind of the arbiter that a resource goes by."""
    return MANUAL if entry.arbiter is not None else content.arbiter.kind


def addresses(node: NodeEntry) -> list[Address]:
    """Where ``node`` takes replication connections, the preferred one first."""
    return [Address(host, node.port) for host in node.addresses]


def control_addresses(node: NodeEntry) -> list[Address]:
    """Where ``node`` takes the calls of other daemons, the preferred one first."""
    return [Address(host, node.control_port) for host in node.addresses]


def _check_name(file: Path, key: str, name: str) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(file, key, str(error), "choose another name") from None


def _check_node(file: Path, name: str, node: NodeEntry) -> None:
    key = f"node.{name}"
    _check_name(file, key, name)
    if not 1 <= len(node.addresses) <= MAX_ADDRESSES:
        raise ConfigError(
            file,
            f"{key}.addresses",
            f"has {len(node.addresses)} addresses",
            f"write 1 to {MAX_ADDRESSES} addresses, the preferred one first",
        )
    for index, host in enumerate(node.addresses):
        where = f"{key}.addresses[{index}]"
        try:
            check_host(host)
        except ValueError as error:
            raise ConfigError(file, where, str(error), 'write it as "10.0.0.1" or "fd00::1"') from None
        if host in node.addresses[:index]:
            raise ConfigError(file, where, f"{host} is there twice", "remove one of them")
        if _unspecified(host):
            raise ConfigError(
                file, where, f"{host} cannot be reached from elsewhere", "write an address of the node"
            )
    for port_key, port in (("port", node.port), ("control_port", node.control_port)):
        if not 1 <= port <= 65535:
            raise ConfigError(
                file, f"{key}.{port_key}", f"{port} is not a port", "write a number from 1 to 65535"
            )
    if node.port == node.control_port:
        raise ConfigError(
            file, f"{key}.control_port", f"{node.port} is the replication port too", "choose another port"
        )


def _unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _check_resource(file: Path, name: str, entry: ResourceEntry, content: ClusterFile) -> None:
    key = f"resource.{name}"
    _check_name(file, key, name)
    for node in entry.on:
        if node not in content.node:
            known = ", ".join(content.node)
            raise ConfigError(
                file, f"{key}.on.{node}", f"the cluster has no node {node!r}", f"its nodes are: {known}"
            )
    if len(entry.on) != COPIES:
        raise ConfigError(
            file, f"{key}.on", f"{len(entry.on)} nodes have a copy", f"a resource is on {COPIES} nodes"
        )
    service_config(entry.service, file, f"{key}.service")
    for node in entry.on:
        # A resource file's own rules, told by where the value stands here.
        try:
            resource_config(resource_on(content, name, node), Path(f"{name}.toml"), node)
        except ConfigError as error:
            own = error.key in CopyEntry.__struct_fields__
            where = f"{key}.on.{node}.{error.key}" if own else f"{key}.{error.key}"
            raise ConfigError(file, where, error.reason, error.remedy) from None


def _check_fences(content: ClusterFile, file: Path) -> None:
    fences = node_fences(content.fence, content.node, file)
    for entry in content.resource.values():
        if content.arbiter.kind == "fence" and entry.arbiter is None:
            check_pair(fences, [node for node in entry.on if not content.node[node].lost], file)


def as_tables(value: Struct) -> dict[str, Any]:
    """A part of the file as tables, without the keys that have their default."""
    found: dict[str, Any] = {}
    for info in msgspec.structs.fields(value):
        item = getattr(value, info.name)
        default = info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory()
        if item != default:
            found[info.name] = _plain(item)
    return found


def _plain(item: Any) -> Any:
    if isinstance(item, Struct):
        return as_tables(item)
    if isinstance(item, dict):
        return {key: _plain(part) for key, part in item.items()}
    if isinstance(item, list):
        return [_plain(part) for part in item]
    return item
