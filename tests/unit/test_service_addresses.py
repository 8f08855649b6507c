"""A node keeps its addresses while it may have them, and drops them when it may not, whatever else hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from blockpair.config.service import HooksTable, ServiceTable
from blockpair.daemon import service_addresses
from blockpair.daemon.service_addresses import Addresses
from blockpair.daemon.service_files import Definition, Places
from blockpair.daemon.service_replica import EngineReplica
from blockpair.failover.machine import Machine

VIP = "192.0.2.10/24@eth0"


@dataclass
class World:
    """What the machine under the addresses does, and what was told."""

    until: float = 5.0
    pets: int = 0
    may: bool = True
    """Whether the addresses may stay, and are guarded."""
    drops: int = 0
    looking: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """A look at the mount began, and may end."""
    mounted: bool = True
    notes: list[tuple[str, str]] = field(default_factory=list)

    async def addresses_until(self) -> float:
        return self.until

    def note(self, _severity: str, name: str, text: str) -> None:
        self.notes.append((name, text))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    async def pet(_machine: Machine) -> bool:
        made.pets += 1
        return made.may

    async def drop(_machine: Machine) -> None:
        made.drops += 1

    async def mounted(_machine: Machine) -> bool:
        made.looking.set()
        await made.looked.wait()
        return made.mounted

    for name, what in (("pet", pet), ("drop", drop), ("mounted", mounted)):
        monkeypatch.setattr(Machine, name, what)
    monkeypatch.setattr(service_addresses, "_LOOK_SECONDS", -1.0)
    return made


@contextlib.asynccontextmanager
async def held(world: World, folder: Path) -> AsyncIterator[Addresses]:
    """A node that has the address, with a lease of a third of a second."""
    places = Places(*(folder / name for name in ("journal", "device", "definition", "list")))
    addresses = Addresses("r0", cast(EngineReplica, world), places, world.note)
    await addresses.machine(Definition("r0", ServiceTable(hooks=HooksTable(promoted="/bin/true"))))
    addresses.stepped(VIP, came=True)
    watch = asyncio.create_task(addresses.watch(asyncio.Event, lambda: 0.3))
    try:
        yield addresses
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is counted has no event
            await asyncio.sleep(0.01)


def test_a_look_that_hangs_costs_no_address(world: World, tmp_path: Path) -> None:
    async def run() -> None:
        async with held(world, tmp_path) as addresses:
            look = asyncio.create_task(addresses.look())
            await world.looking.wait()
            pets = world.pets
            await until(lambda: world.pets >= pets + 5)
            assert not look.done() and addresses.held == {VIP}
            world.looked.set()
            world.mounted = False
            assert not await look
            assert addresses.held == frozenset() and world.drops == 1
            assert [name for name, _ in world.notes] == ["service.mount-lost"]

    asyncio.run(run())


@pytest.mark.parametrize(("left", "why"), [(0.0, "may not write"), (5.0, "their guard has ended")])
def test_what_may_not_stay_goes_and_it_is_said_why(
    world: World, tmp_path: Path, left: float, why: str
) -> None:
    async def run() -> None:
        async with held(world, tmp_path) as addresses:
            await until(lambda: world.pets > 0)
            world.may, world.until = False, left
            await until(lambda: bool(world.notes))
            [(name, text)] = world.notes
            assert name == "service.addresses-dropped" and why in text
            assert addresses.held == frozenset() and world.drops == 1
            # Nothing is here: nobody is told anything.
            pets = world.pets
            addresses.stepped(VIP, came=False)
            await asyncio.sleep(0)
            assert world.pets == pets

    asyncio.run(run())
