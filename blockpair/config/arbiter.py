"""``[arbiter]`` of cluster.toml: who says which node may write when the two do not hear each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from blockpair.config.files import ConfigError
from blockpair.config.names import is_loopback, parse_address

ArbiterChoice = Literal["witness", "etcd", "fence", "manual"]

MANUAL: ArbiterChoice = "manual"
DEFAULT_PREFIX = "/blockpair"
# The keys beside ``kind`` that each kind has.
_KEYS: dict[str, tuple[str, ...]] = {
    "witness": ("address",),
    "etcd": ("endpoints", "ca", "cert", "key", "prefix"),
    "fence": (),
    "manual": (),
}


class ArbiterTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[arbiter]``. ``address``: the witness; ``endpoints``: URLs of an etcd's members; ``ca``, ``cert`` and
    ``key``: absolute paths on every node; ``prefix``: before the names of its keys.
    """

    kind: ArbiterChoice = MANUAL
    address: str = ""
    endpoints: list[str] = field(default_factory=list)
    ca: str = ""
    cert: str = ""
    key: str = ""
    prefix: str = DEFAULT_PREFIX


def check_arbiter(file: Path, table: ArbiterTable, nodes: Mapping[str, list[str]]) -> None:
    """Raises `ConfigError` where the table contradicts itself; ``nodes``: the hosts of each node."""
    defaults = ArbiterTable()
    for key in ArbiterTable.__struct_fields__[1:]:
        if getattr(table, key) != getattr(defaults, key) and key not in _KEYS[table.kind]:
            own = [kind for kind, keys in _KEYS.items() if key in keys]
            raise ConfigError(
                file,
                f"arbiter.{key}",
                f'it means nothing to an arbiter of the kind "{table.kind}"',
                f'remove it, or write kind = "{own[0]}"',
            )
    if table.kind == "witness":
        _check_witness(file, table, nodes)
    elif table.kind == "etcd":
        _check_etcd(file, table)


def _check_witness(file: Path, table: ArbiterTable, nodes: Mapping[str, list[str]]) -> None:
    key = "arbiter.address"
    if not table.address:
        raise ConfigError(
            file, key, "is missing", 'write where `blockpair witness serve` runs: address = "10.0.0.3:7790"'
        )
    try:
        host = parse_address(table.address).host
    except ValueError as error:
        raise ConfigError(file, key, str(error), 'write it as address = "10.0.0.3:7790"') from None
    for node, hosts in nodes.items():
        if host in hosts and not is_loopback(host):
            raise ConfigError(
                file,
                key,
                f"{host} is the node {node}: when {node} is lost, so is its word on who may go on",
                "run `blockpair witness serve` on a third machine, and write its address",
            )


def _check_etcd(file: Path, table: ArbiterTable) -> None:
    from blockpair.arbiter.etcd.gateway import MAX_ENDPOINTS, check_endpoint
    from blockpair.arbiter.etcd.messages import check_prefix

    if not 1 <= len(table.endpoints) <= MAX_ENDPOINTS:
        raise ConfigError(
            file,
            "arbiter.endpoints",
            f"has {len(table.endpoints)} endpoints",
            f'write 1 to {MAX_ENDPOINTS} of them: endpoints = ["https://10.0.0.3:2379"]',
        )
    for index, url in enumerate(table.endpoints):
        where = f"arbiter.endpoints[{index}]"
        if url in table.endpoints[:index]:
            raise ConfigError(file, where, f"{url} is there twice", "remove one of them")
        try:
            check_endpoint(url)
        except ValueError as error:
            raise ConfigError(file, where, str(error), 'write it as "https://10.0.0.3:2379"') from None
    for key, what in (
        ("ca", "the authority that etcd's certificates are from"),
        ("cert", "a certificate by which etcd knows this cluster's nodes"),
        ("key", "the key of that certificate"),
    ):
        path = getattr(table, key)
        if not path.startswith("/"):
            raise ConfigError(
                file,
                f"arbiter.{key}",
                f"{path!r} is not an absolute path" if path else "is missing",
                f"write the whole path of {what}, the same on every node",
            )
    try:
        check_prefix(table.prefix)
    except ValueError as error:
        raise ConfigError(file, "arbiter.prefix", str(error), f'write it as "{DEFAULT_PREFIX}"') from None


def place(table: ArbiterTable) -> str:
    """Which arbiter it is, for a person: ``witness 10.0.0.3:7790``."""
    match table.kind:
        case "witness":
            return f"witness {table.address}"
        case "etcd":
            return f"etcd {', '.join(table.endpoints)}"
        case _:
            return table.kind
