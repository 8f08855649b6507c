"""What a service goes by of the engine: whether this node may write, for how long, and whether the peer may
go on.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any, cast

import pytest
from msgspec.structs import replace

from blockpair.daemon import service_replica
from blockpair.daemon.manager import Manager
from blockpair.daemon.service_replica import (
    STOOD_IN_SECONDS,
    UNLEASED_SECONDS,
    EngineReplica,
    is_primary,
    may_write_seconds,
    role_of,
    unready,
)
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.failover.follow import Role
from blockpair.status.engine import ArbitrationStatus, ConfigurationStatus, EngineStatus
from tests.unit.status_samples import engine, peer

BOTH = ConfigurationStatus(7, "a", ["a", "b"])
ALONE = ConfigurationStatus(8, "a", ["a"])
ARBITRATED = ArbitrationStatus(
    epoch=7,
    promised=7,
    configuration=BOTH,
    joint=False,
    lease_seconds=1.5,
    promise_seconds=None,
    want=None,
    want_seconds=None,
    asking=False,
    suspended=None,
    why=None,
    superseded=None,
)


def primary(**changes: Any) -> EngineStatus:
    return replace(engine(), **changes)


def test_an_engine_that_is_away_or_about_to_be_primary_is_told_apart() -> None:
    assert role_of(None) is role_of(primary(state="failed")) is Role.AWAY
    assert role_of(primary(role="Secondary")) is Role.AWAY
    assert role_of(primary(role="Secondary", resuming=True)) is Role.RESUMING
    assert role_of(primary()) is Role.SERVING


@pytest.mark.parametrize(
    ("arbitration", "seconds"),
    [
        (None, UNLEASED_SECONDS),
        (ARBITRATED, 1.5),
        (replace(ARBITRATED, lease_seconds=None), 0),
        (replace(ARBITRATED, suspended="all"), 0),
        # Writes wait for a peer that may be lost: its word still holds.
        (replace(ARBITRATED, suspended="writes", lease_seconds=0.4), 0.4),
        # What is left of a word that is not needed any more does not count.
        (replace(ARBITRATED, configuration=ALONE, lease_seconds=0.01), UNLEASED_SECONDS),
        (replace(ARBITRATED, configuration=ALONE, joint=True, lease_seconds=0.2), 0.2),
        (replace(ARBITRATED, configuration=None, lease_seconds=0.3), 0.3),
    ],
)
def test_the_addresses_stay_for_what_is_left_of_the_peers_word(
    arbitration: ArbitrationStatus | None, seconds: float
) -> None:
    assert may_write_seconds(primary(arbitration=arbitration)) == seconds
    assert may_write_seconds(primary(role="Secondary", arbitration=arbitration)) == 0
    assert may_write_seconds(primary(resuming=True, role="Secondary", arbitration=arbitration)) == 0


def test_without_any_copy_there_is_nothing_to_serve() -> None:
    assert may_write_seconds(primary(disk="Diskless")) == 0
    assert may_write_seconds(primary(disk="Diskless", served_by="b")) == UNLEASED_SECONDS
    # Who stands in gives no word; what is left of its last one says nothing.
    for lease in (None, 1.5):
        served = replace(ARBITRATED, lease_seconds=lease)
        assert (
            may_write_seconds(primary(disk="Diskless", served_by="b", arbitration=served)) == STOOD_IN_SECONDS
        )
    served = replace(ARBITRATED, suspended="all")
    assert may_write_seconds(primary(disk="Diskless", served_by="b", arbitration=served)) == 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"connection": "Connecting"}, "Connecting"),
        ({"replication": "SyncSource"}, "SyncSource"),
        ({"disk": "Inconsistent"}, "not in sync"),
        ({"out_of_sync_bytes": 4096}, "not in sync"),
        ({"full_sync": True}, "not in sync"),
    ],
)
def test_a_peer_that_lacks_something_takes_nothing_over(changes: dict[str, Any], word: str) -> None:
    assert unready(primary(peers=[peer()]), "b") is None
    assert word in str(unready(primary(peers=[peer(**changes)]), "b"))


def test_the_peer_of_a_node_without_a_disk_lacks_nothing_of_it() -> None:
    marked = [peer(out_of_sync_bytes=4096)]
    assert unready(primary(peers=marked, disk="Diskless", served_by="b"), "b") is None
    assert unready(primary(peers=[peer(disk="Inconsistent")], disk="Diskless"), "b") is not None


def test_a_peer_that_the_arbiter_does_not_know_in_sync_takes_nothing_over() -> None:
    status = primary(peers=[peer()], arbitration=ARBITRATED)
    assert unready(status, "b") is None
    alone = replace(status, arbitration=replace(ARBITRATED, configuration=ALONE))
    assert "arbiter" in str(unready(alone, "b"))
    assert "not known" in str(unready(status, "c")) and "not known" in str(unready(None, "b"))


@dataclass
class Said:
    """A manager with one runtime, itself: its last status, and until when its engine may serve."""

    says: EngineStatus
    until: float = 0.0

    def runtime(self, _name: str) -> Said:
        return self

    async def status(self) -> EngineStatus:
        return self.says

    def serves_until(self) -> float:
        return self.until


def test_addresses_stay_as_long_as_the_engine_may_serve_whatever_an_old_status_says() -> None:
    async def run() -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        said = Said(primary(arbitration=ARBITRATED), until=now + 30)
        replica = EngineReplica("r0", cast(Manager, said), cast(NodeWatchdog, None))
        assert await replica.addresses_until() == now + 30
        # The engine stands still, and its status with it.
        said.until = now - 0.001
        assert await replica.addresses_until() == 0
        # Without a lease it is what a hanging daemon may keep them.
        said.until = math.inf
        assert 0 < await replica.addresses_until() - now - UNLEASED_SECONDS < 5
        # The peer serves, and the engine's own time is up.
        said.says, said.until = primary(disk="Diskless", served_by="b", arbitration=ARBITRATED), 0.0
        assert 0 < await replica.addresses_until() - now - STOOD_IN_SECONDS < 5
        # Nothing to serve.
        said.says = primary(disk="Diskless")
        assert await replica.addresses_until() == 0

    asyncio.run(run())


class Hangs:
    """A manager whose demotions end when they may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.ended = 0

    async def demote(self, _name: str) -> None:
        await self.may.wait()
        self.ended += 1


def test_a_demotion_that_hangs_does_not_keep_the_next_means_from_being_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_replica, "_HANGING_SECONDS", 0.05)

    async def run() -> None:
        hangs = Hangs()
        replica = EngineReplica("r0", cast(Manager, hangs), cast(NodeWatchdog, None))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await replica.demote()
        # It was not taken back: the engine ends what it has begun.
        hangs.may.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert hangs.ended == 1

    asyncio.run(run())


def test_only_a_peer_that_is_there_is_primary() -> None:
    here = replace(peer(), name="b", connection="Connected", role="Primary")
    assert is_primary(replace(engine(), peers=[here]), "b")
    assert not is_primary(replace(engine(), peers=[here]), "c") and not is_primary(None, "b")
    for other in (replace(here, role="Secondary"), replace(here, connection="Connecting")):
        assert not is_primary(replace(engine(), peers=[other]), "b")
