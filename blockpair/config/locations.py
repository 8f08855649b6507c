"""Where everything is: ``BLOCKPAIR_DIR`` moves all of it below one directory, so that one machine can hold
several nodes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blockpair.config.names import NAME_RULE
from blockpair.errors import BlockpairError, ErrorKind

# sun_path of a Unix socket address, less its closing zero byte.
MAX_SOCKET_PATH = 107


SERVICE_FILES = ("journal", "device", "definition", "held", "moving")


@dataclass(frozen=True)
class Locations:
    """The directories of one node."""

    config: Path
    run: Path
    state: Path
    dev: Path

    @property
    def node_file(self) -> Path:
        return self.config / "blockpair.toml"

    @property
    def cluster_file(self) -> Path:
        """What the nodes of the cluster have in common."""
        return self.config / "cluster.toml"

    @property
    def trust(self) -> Path:
        """Certificates, keys and join tokens: for root alone."""
        return self.state / "trust"

    @property
    def resources(self) -> Path:
        return self.config / "resources"

    def resource_file(self, name: str) -> Path:
        return self.resources / f"{_part(name)}.toml"

    @property
    def cluster_history(self) -> Path:
        """The versions of the cluster's configuration."""
        return self.state / "cluster" / "history"

    @property
    def creating(self) -> Path:
        """A file a resource whose creation on several nodes has begun and not ended."""
        return self.state / "cluster" / "creating"

    def creating_file(self, name: str) -> Path:
        """That of one resource."""
        return self.creating / f"{_part(name)}.json"

    @property
    def fence_records(self) -> Path:
        """Where the arbiter is fencing: this node's own record of each resource's configuration."""
        return self.state / "fence"

    @property
    def rpc_socket(self) -> Path:
        return self.run / "blockpaird.sock"

    @property
    def lock_file(self) -> Path:
        return self.run / "blockpaird.lock"

    @property
    def desired_file(self) -> Path:
        return self.state / "desired.json"

    def metadata_file(self, name: str) -> Path:
        """Where a resource's external metadata goes unless told otherwise."""
        return self.state / "metadata" / f"{_part(name)}.meta"

    def bundles(self, name: str) -> Path:
        """Where what split brains' victims lost is kept, of one resource."""
        return self.state / "bundles" / _part(name)

    def history_file(self, name: str) -> Path:
        """What was decided about a resource on this node; it outlives the resource."""
        return self.state / "history" / f"{_part(name)}.jsonl"

    def verify_file(self, name: str) -> Path:
        """What comparing both copies of a resource has proved and found."""
        return self.state / "verify" / f"{_part(name)}.json"

    @property
    def audit_file(self) -> Path:
        """What the last audit of this node found."""
        return self.state / "audit" / "last.json"

    @property
    def hooks(self) -> Path:
        """The programs that are run for events."""
        return self.config / "hooks.d"

    @property
    def events(self) -> Path:
        """The stream of what happened on this node."""
        return self.state / "events"

    @property
    def deliveries(self) -> Path:
        """A file for each whom events are delivered to: what it has had."""
        return self.state / "deliveries"

    @property
    def array_scrubs(self) -> Path:
        """When each md array of this machine was scrubbed."""
        return self.state / "array-scrubs.json"

    @property
    def array_votes(self) -> Path:
        """What became of the differences that scrubs of md arrays found."""
        return self.state / "array-votes.json"

    @property
    def array_speeds(self) -> Path:
        """What is to be written back of arrays whose sync is held back."""
        return self.run / "array-speeds.json"

    def nbd_socket(self, name: str) -> Path:
        return self.run / "nbd" / f"{_part(name)}.sock"

    def primary_marker(self, name: str) -> Path:
        return self.run / "primary" / _part(name)

    def met_marker(self, name: str) -> Path:
        return self.run / "met" / _part(name)

    def device_marker(self, name: str) -> Path:
        return self.run / "device" / _part(name)

    @property
    def vips(self) -> Path:
        """A list a resource of the virtual addresses that this node holds for it."""
        return self.run / "vips"

    def vip_list(self, name: str) -> Path:
        """That of one resource."""
        return self.vips / f"{_part(name)}.list"

    def service_file(self, name: str, what: str) -> Path:
        """What is kept of a resource's service in this boot, one of `SERVICE_FILES`."""
        return self.run / "service" / f"{_part(name)}.{what}"

    def stale_marker(self, name: str) -> Path:
        return self.state / "stale" / _part(name)

    def disk_marker(self, name: str) -> Path:
        """Which disk a resource had when it was up last."""
        return self.state / "disk" / _part(name)

    def device_link(self, name: str) -> Path:
        return self.dev / _part(name)


def _part(name: str) -> str:
    """``name``, if it names nothing outside its directory: it may be another node's, or any user's, word.
    Raises `BlockpairError`.
    """
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise BlockpairError(ErrorKind.USAGE, f"{name!r} is not a name: {NAME_RULE}", "write the right name")
    return name


def locations(environment: Mapping[str, str] | None = None, directory: str | None = None) -> Locations:
    """The locations that ``directory`` or else ``BLOCKPAIR_DIR`` chooses; without either, those of an
    installed system.
    """
    base = directory or (os.environ if environment is None else environment).get("BLOCKPAIR_DIR", "")
    if base:
        root = Path(base).absolute()
        return Locations(root / "config", root / "run", root / "state", root / "dev")
    return Locations(
        Path("/etc/blockpair"), Path("/run/blockpair"), Path("/var/lib/blockpair"), Path("/dev/blockpair")
    )


def check_socket_path(path: Path) -> Path:
    """``path``, if a Unix socket can be bound there. Raises `BlockpairError` if it is too long for one."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise BlockpairError(
            ErrorKind.CONFIG,
            f"the socket path {path} has more than {MAX_SOCKET_PATH} bytes, which no Unix socket can have",
            "choose a shorter BLOCKPAIR_DIR or resource name",
        )
    return path
