"""A resource in the daemon, over an engine whose disk fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from blockpair.arbiter.interface import Arbiter
from blockpair.bridge import Running
from blockpair.config.locations import Locations, locations
from blockpair.config.resource import PeerTable, ResourceConfig, ResourceFile, resource_config
from blockpair.daemon import runtime
from blockpair.daemon.desired import BootMarker, Desired
from blockpair.daemon.judges import Judges
from blockpair.daemon.kernel import LockedMemory
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import EngineStatus
from tests.unit.status_samples import ARBITRATION, engine


def nobody(*_: object) -> Arbiter:
    """No cluster here has an arbiter."""
    raise AssertionError


class Engine:
    """A Primary that refuses to be demoted."""

    def __init__(self, kind: ErrorKind) -> None:
        self._kind = kind
        self._events = os.eventfd(0)
        self.stopped = False

    def event_fd(self) -> int:
        return self._events

    def status(self) -> EngineStatus:
        return engine()

    def call(self, command: str, **_: object) -> None:
        assert command == "demote"
        raise BlockpairError(self._kind, "the flush before demoting failed", "blockpair down")

    def verified(self) -> list[Any]:
        return []

    def stop(self) -> None:
        self.stopped = True
        os.close(self._events)


async def nobody_answers(node: str, method: str, params: Any) -> Any:
    raise BlockpairError(ErrorKind.UNREACHABLE, f"{node} does not answer", "start it")


def _runtime(
    config: ResourceConfig, places: Locations, marker: BootMarker, stir: Callable[[], None] = lambda: None
) -> runtime.Runtime:
    return runtime.Runtime(
        config,
        node="a",
        places=places,
        marker=marker,
        met=BootMarker(places.met_marker("r0"), "this boot"),
        call=nobody_answers,
        kernel_device="off",
        locked=LockedMemory(),
        judges=Judges(nobody),
        stir=stir,
    )


@pytest.mark.parametrize("kind", [ErrorKind.FAILED, ErrorKind.IN_USE])
def test_a_disk_that_cannot_flush_does_not_keep_a_primary_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ErrorKind
) -> None:
    made = Engine(kind)
    places = locations(directory=str(tmp_path))
    marker = BootMarker(places.primary_marker("r0"), "this boot")
    config = resource_config(ResourceFile("/d", "internal", [PeerTable("b", "h:1")]), Path("r0.toml"), "a")

    def running(*_: object, **__: object) -> Running:
        return cast(Running, made)

    async def life() -> bool:
        subject = _runtime(config, places, marker)
        await subject.start(cast(Any, None), Desired(up=True))
        marker.set()
        if kind is ErrorKind.FAILED:
            await subject.down()
        else:
            with pytest.raises(BlockpairError):
                await subject.down()
        return subject.running

    monkeypatch.setattr(runtime, "Running", running)
    left = asyncio.run(life())
    down = kind is ErrorKind.FAILED
    assert (left, made.stopped, marker.is_set()) == (not down, down, not down)


class Fickle(Engine):
    """An engine whose role changes by itself; it asks its arbiter nothing."""

    def __init__(self) -> None:
        super().__init__(ErrorKind.FAILED)
        self.role = "Secondary"
        self.resuming = False

    def status(self) -> EngineStatus:
        return engine(role=self.role, resuming=self.resuming, arbitration=ARBITRATION)

    def asks(self) -> str:
        return "null"

    def events(self) -> list[Any]:
        return []

    def reports_asked(self) -> list[str]:
        return []


def test_a_role_that_changes_by_itself_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fickle()
    places = locations(directory=str(tmp_path))
    marker = BootMarker(places.primary_marker("r0"), "this boot")
    content = ResourceFile("/d", "internal", [PeerTable("b", "h:1")], arbiter="witness")
    config = resource_config(content, Path("r0.toml"), "a")
    stirred: list[bool] = []

    async def life() -> None:
        subject = _runtime(config, places, marker, stir=lambda: stirred.append(True))
        await subject.start(cast(Any, None), Desired(up=True))
        for role, resuming, remembered in (
            ("Primary", False, True),
            # It has not lost its role yet: the arbiter, or its peer, decides.
            ("Secondary", True, True),
            ("Secondary", False, False),
            ("Primary", False, True),
        ):
            made.role, made.resuming = role, resuming
            await subject.reconcile()
            assert marker.is_set() is remembered, (role, resuming)
        # An event of the engine has it looked after at once.
        os.eventfd_write(made.event_fd(), 1)
        for _ in range(200):
            await asyncio.sleep(0.005)
            if stirred:
                break
        assert stirred
        await subject.suspend()
        assert marker.is_set()

    monkeypatch.setattr(runtime, "Running", lambda *_, **__: cast(Running, made))
    asyncio.run(life())
