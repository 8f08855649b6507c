"""What is kept of a service in this boot, beside its journal: a daemon that is killed goes on by it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
from msgspec import Struct

from blockpair.config.files import read_state, write_atomically
from blockpair.config.service import Service, ServiceTable, service_config


@dataclass(frozen=True)
class Places:
    """Where a service's runner keeps what outlives a daemon."""

    journal: Path
    device: Path
    definition: Path
    guard: Path


class Definition(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The definition by which a service was brought up; it goes on by it until it is down, whatever the
    configuration says by then.
    """

    name: str
    table: ServiceTable

    @cached_property
    def service(self) -> Service:
        """Checked. Raises `ConfigError`."""
        return service_config(self.table, Path("cluster.toml"), f"resource.{self.name}.service")


class DefinitionFile:
    """Keeps one; there while anything of the service may be here."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> Definition | None:
        """None where nothing is up. Raises `BlockpairError`."""
        subject = f"{self._file}, which says what was brought up,"
        remedy = "look at what is mounted and which addresses are there, then remove the file"
        return read_state(self._file, Definition, subject, remedy)

    def write(self, definition: Definition) -> None:
        """Durable. Raises `OSError`."""
        write_atomically(self._file, msgspec.json.encode(definition).decode() + "\n", 0o600)

    def remove(self) -> None:
        """Raises `OSError`."""
        self._file.unlink(missing_ok=True)
