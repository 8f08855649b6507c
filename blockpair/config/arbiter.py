"""``[arbiter]`` of cluster.toml: who says which node may write when the two do not hear each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct, field

from blockpair.config.files import ConfigError
from blockpair.config.names import is_loopback, parse_address

ArbiterChoice = Literal["witness", "etcd", "fence", "manual"]

MANUAL: ArbiterChoice = "manual"
DEFAULT_PREFIX = "/blockpair"
MAX_ENDPOINTS = 9
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
        problem = _bad_url(url)
        if problem is not None:
            raise ConfigError(file, where, problem, 'write it as "https://10.0.0.3:2379"')
    for key in ("ca", "cert", "key"):
        path = getattr(table, key)
        if path and not path.startswith("/"):
            raise ConfigError(
                file,
                f"arbiter.{key}",
                f"{path!r} is not an absolute path",
                "write the whole path of the file",
            )
    if bool(table.cert) != bool(table.key):
        missing = "key" if table.cert else "cert"
        raise ConfigError(
            file, f"arbiter.{missing}", "is missing", "a certificate and its key go together: write both"
        )
    if not table.prefix.startswith("/") or "\0" in table.prefix:
        raise ConfigError(
            file,
            "arbiter.prefix",
            f"{table.prefix!r} does not begin with /",
            f'write it as "{DEFAULT_PREFIX}"',
        )


def _bad_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"{url!r} is not a URL: {error}"
    if parts.scheme not in ("https", "http") or not host or parts.path.strip("/") or parts.query:
        return f"{url!r} is not https://HOST:PORT"
    if port is None:
        return f"{url!r} has no port"
    if parts.scheme == "http" and not is_loopback(host):
        return f"{url!r} has no TLS, and is not of this machine"
    return None


def place(table: ArbiterTable) -> str:
    """Which arbiter it is, for a person: ``witness 10.0.0.3:7790``."""
    match table.kind:
        case "witness":
            return f"witness {table.address}"
        case "etcd":
            return f"etcd {', '.join(table.endpoints)}"
        case _:
            return table.kind
