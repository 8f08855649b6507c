"""Two nodes with a service, below their daemons' methods: engines that only have a role, calls without a
network, and a pair of hooks, which need no rights, as the service. All else is the daemon's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from blockpair.cluster.server import PeerMethod
from blockpair.config.arbiter import MANUAL
from blockpair.config.locations import Locations, locations
from blockpair.config.service import HooksTable, ServiceTable
from blockpair.daemon.manager import Manager
from blockpair.daemon.services import Services
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.plan import Watchdog
from blockpair.status.engine import EngineStatus
from blockpair.status.report import KernelDeviceStatus
from tests.unit.status_samples import engine, peer

HOOK = """\
#!/bin/sh
cd "${0%/*}" || exit 1
echo "$1" >>said
! rm "fails-$1" 2>/dev/null
"""


class Resource:
    """r0 on a node: what the daemon's runtime of it is asked."""

    def __init__(self, name: str, pair: Pair) -> None:
        self.name = name
        self._pair = pair
        self.primary = False
        self.disk = "UpToDate"
        self.changed = asyncio.Event()
        self.config = SimpleNamespace(arbiter=MANUAL)
        self.notes: list[str] = []
        self.refusal: BlockpairError | None = None
        """What it says to who would make it Primary."""

    async def status(self) -> EngineStatus:
        """With the peer as it is seen from here."""
        other = self._pair.resources["b" if self.name == "a" else "a"]
        connected = self._pair.connected
        found = replace(
            peer(),
            name=other.name,
            connection="Connected" if connected else "Connecting",
            role="Primary" if other.primary else "Secondary",
            disk=other.disk,
            unacked=0,
        )
        role = "Primary" if self.primary else "Secondary"
        return replace(engine(), node=self.name, role=role, disk=self.disk, peers=[found])

    async def become_primary(self, *, force: bool) -> bool:
        """One at a time, as an engine sees to with its peer."""
        if self.refusal is not None:
            raise self.refusal
        other = self._pair.resources["b" if self.name == "a" else "a"]
        if other.primary and not force:
            raise BlockpairError(ErrorKind.UNSAFE, f"{other.name} is Primary", "demote it there first")
        self.primary = True
        return False

    def device_status(self) -> KernelDeviceStatus:
        """There is none."""
        return KernelDeviceStatus(attached=False)

    def serves_until(self) -> float:
        """Nobody's word is needed."""
        return float("inf")

    async def prepare(self) -> None:
        """Nothing is to be made ready."""

    async def fail_io(self) -> None:
        """There is no device."""

    def note(self, _severity: str, name: str, _text: str) -> None:
        """An event."""
        self.notes.append(name)


class Calls:
    """The way to the other node. ``before`` and ``after``: in place of a call, and of its answer."""

    def __init__(self, caller: str, pair: Pair) -> None:
        self._caller = caller
        self._pair = pair
        self.called: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}

    async def call(self, node: str, method: str, params: Any, **_timeout: float) -> Any:
        """As `Peers.call`: values of JSON there and back."""
        self.called.append(method)
        if (instead := self.before.get(method)) is not None:
            await instead()
        asked = self._pair.methods[node][method]
        given = msgspec.convert(params, type=asked.params)
        answer = msgspec.to_builtins(await asked.run(self._caller, given))
        if (instead := self.after.get(method)) is not None:
            await instead()
        return answer


@dataclass
class Pair:
    """Nodes a and b. ``connected``: their engines are."""

    directory: Path
    connected: bool = True
    resources: dict[str, Resource] = field(default_factory=dict)
    methods: dict[str, dict[str, PeerMethod]] = field(default_factory=lambda: {"a": {}, "b": {}})
    services: dict[str, Services] = field(default_factory=dict)
    managers: dict[str, FakeManager] = field(default_factory=dict)
    calls: dict[str, Calls] = field(default_factory=dict)
    tables: dict[str, ServiceTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hook = self.directory / "hook"
        hook.write_text(HOOK)
        hook.chmod(0o755)
        for name in ("a", "b"):
            (self.directory / name).mkdir()
            self.tables[name] = ServiceTable(hooks=HooksTable(promoted=str(hook), demoting=str(hook)))
            self.resources[name] = Resource(name, self)
            self.calls[name] = Calls(name, self)

    def said(self) -> list[str]:
        """The moments at which the hook was run, on either node."""
        file = self.directory / "said"
        return file.read_text().split() if file.exists() else []

    def fails(self, moment: str) -> None:
        """The next run of the hook at that moment does."""
        (self.directory / f"fails-{moment}").touch()

    def state(self, name: str) -> str:
        """Of the service on a node."""
        status = self.services[name].status("r0")
        assert status is not None
        return status.state

    def moving(self, name: str) -> bool:
        """Whether a switchover from there has begun, and not ended."""
        return self.places(name).service_file("r0", "moving").exists()

    def places(self, name: str) -> Locations:
        """A node's."""
        return locations({"BLOCKPAIR_DIR": str(self.directory / name)})

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Both daemons, as far as services go."""
        for name in ("a", "b"):
            manager = self.managers[name] = FakeManager(name, self)
            self.services[name] = Services(
                cast(Manager, manager), cast(NodeWatchdog, _NoWatchdog()), self.methods[name]
            )
        for each in self.services.values():
            each.start()
        try:
            yield
        finally:
            await asyncio.gather(*(each.end() for each in self.services.values()))


class _NoWatchdog:
    def state(self) -> Watchdog:
        return Watchdog.NONE


class FakeManager:
    """What services ask of the daemon's resources."""

    def __init__(self, name: str, pair: Pair) -> None:
        self._pair = pair
        self._resource = pair.resources[name]
        self.node = SimpleNamespace(name=name)
        self.judges = SimpleNamespace(shares=lambda _name, node: node in ("a", "b"))
        self.peers = pair.calls[name]
        self.places = pair.places(name)
        self.boot = "boot"
        self.up = True
        self.reports = SimpleNamespace(service_status=None)

    @property
    def configuration(self) -> Any:
        """The cluster's, as far as it is about the service."""
        entry = SimpleNamespace(service=self._pair.tables[self.node.name])
        return SimpleNamespace(content=SimpleNamespace(resource={"r0": entry}))

    def names(self) -> list[str]:
        """All that there are."""
        return ["r0"]

    def running(self) -> list[str]:
        """Those that are up."""
        return ["r0"] if self.up else []

    def runtime(self, name: str) -> Resource:
        """One that is up."""
        if not self.up:
            raise BlockpairError(ErrorKind.FAILED, f"the resource {name} is down", f"blockpair up {name}")
        return self._resource

    async def promote(self, _name: str, *, force: bool) -> None:
        """The role."""
        await self._resource.become_primary(force=force)

    async def offer(self, _name: str) -> None:
        """There is no device."""

    async def demote(self, _name: str) -> None:
        """The role."""
        self._resource.primary = False

    async def down(self, _name: str) -> None:
        """The role, and the resource."""
        self._resource.primary, self.up = False, False

    async def warm_up(self, _name: str) -> None:
        """Nothing is read."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
