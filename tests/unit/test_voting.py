"""What the daemon has the peer decide after a scrub: when, what it keeps of it, and what it tells."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from blockpair.config.locations import locations
from blockpair.daemon import voting
from blockpair.daemon.manager import Manager
from blockpair.daemon.voting import Voting
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid.events import Event
from blockpair.raid.layout import geometry
from blockpair.raid.legs import Legs
from blockpair.raid.model import Sync
from tests.unit.raid_members import BLOCK, START, Members

MISMATCH = 65536


class Daemon:
    """A daemon's voting over an array of files, and what it told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.members = Members(folder, geometry("raid10", 4))
        self.array = replace(self.members.array, mismatch_bytes=MISMATCH)
        self.known = {self.array.uuid: self.array}
        self.peer = SimpleNamespace(replication="Established", disk="UpToDate")
        self.told: list[Event] = []
        self.start: int | None = START
        self.up = True
        self._places = locations(directory=str(folder))
        legs = partial(Legs, block=self.members.sysfs, devices=self.members.devices)
        monkeypatch.setattr(voting, "Legs", legs)
        monkeypatch.setattr(voting, "resources_above", lambda device, folder: ["r0"])
        monkeypatch.setattr(voting, "place_on", lambda path, device: self.start)
        monkeypatch.setattr(voting, "_LOOK_SECONDS", 0.001)
        monkeypatch.setattr(voting, "_REST_SECONDS", 0.0)
        self.voting = self.begun()

    def begun(self) -> Voting:
        """As after a start of the daemon."""
        manager: Any = SimpleNamespace(runtime=lambda name: self._runtime())
        return Voting(self._places, manager, lambda: self.known, self.told.append)

    def _runtime(self) -> Any:
        if not self.up:
            raise BlockpairError(ErrorKind.FAILED, "the resource r0 is down", "blockpair up r0")

        async def status() -> Any:
            return SimpleNamespace(
                disk="UpToDate", peers=[self.peer], size_bytes=self.members.size, block_size_bytes=BLOCK
            )

        config = SimpleNamespace(device=Path("/dev/md127"))
        return SimpleNamespace(config=config, status=status, engine=lambda: self.members)

    def until(self, condition: Callable[[], bool]) -> None:
        """Run it until something holds."""

        async def live() -> None:
            running = asyncio.create_task(self.voting.run())
            deadline = time.monotonic() + 20
            while not condition() and not running.done() and time.monotonic() < deadline:
                await asyncio.wait({running}, timeout=0.001)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(live())
        assert condition()

    @property
    def standing(self) -> Any:
        return self.voting.standings.get(self.array.uuid)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon(tmp_path, monkeypatch)
    try:
        made.members.settled()
    except OSError:
        pytest.skip("no O_DIRECT in the folder for temporary files")
    return made


def test_after_a_scrub_what_is_wrong_is_healed_counted_and_told(daemon: Daemon) -> None:
    daemon.members.write(3 * BLOCK, b"decayed", 1)
    daemon.voting.want(daemon.array)
    daemon.until(lambda: daemon.standing is not None and daemon.standing.settled)
    (healed,) = daemon.told
    assert healed.code == "copies.healed" and healed.device and healed.device in healed.cause
    assert daemon.standing.settled and daemon.voting.healed[daemon.array.uuid] == BLOCK
    assert daemon.members.equal()
    # It is over for the next daemon too.
    daemon.voting = daemon.begun()
    assert daemon.standing.settled and daemon.standing.healed == BLOCK
    # An array that a newer scrub found otherwise, on which this says nothing.
    daemon.voting.want(replace(daemon.array, geometry=geometry("raid5", 4)))
    daemon.until(lambda: daemon.standing is None)


def test_it_waits_for_what_has_to_be_first_and_says_for_what(daemon: Daemon) -> None:
    daemon.members.write(3 * BLOCK, b"decayed", 1)
    daemon.voting.want(daemon.array)
    daemon.up = False
    daemon.until(lambda: daemon.standing is not None and "r0 is down" in daemon.standing.waits)
    daemon.up, daemon.peer.replication = True, "SyncSource"
    daemon.voting = daemon.begun()
    daemon.until(lambda: "no peer is connected and in step" in daemon.standing.waits)
    daemon.peer.replication, daemon.start = "Established", None
    daemon.voting = daemon.begun()
    daemon.until(lambda: "device mapper" in daemon.standing.waits)
    daemon.start = START
    daemon.known = {daemon.array.uuid: replace(daemon.array, sync=Sync("recover", 0, 1, 1))}
    daemon.voting = daemon.begun()
    assert daemon.standing.pending and daemon.members.writes == []
    daemon.known = {daemon.array.uuid: daemon.array}
    daemon.until(lambda: daemon.standing.settled)
    assert [event.code for event in daemon.told] == ["copies.healed"]


def test_what_cannot_be_decided_for_long_is_left_to_a_person_and_the_rest_is_done(daemon: Daemon) -> None:
    daemon.members.write(3 * BLOCK, b"decayed", 1)
    daemon.members.write(45 * BLOCK, b"decayed", 0)
    # Of three passes: both at once, and then the first alone, three times each.
    daemon.members.fails = 18
    daemon.voting.want(daemon.array)
    daemon.until(lambda: daemon.standing is not None and not daemon.standing.pending)
    assert [event.code for event in daemon.told] == ["copies.healed", "copies.undecided"]
    assert (daemon.standing.healed, daemon.standing.undecided) == (BLOCK, BLOCK)


def test_what_it_left_before_a_restart_is_not_counted_twice(daemon: Daemon) -> None:
    daemon.members.write(3 * BLOCK, b"decayed", 0)
    daemon.members.write(3 * BLOCK, b"another", 1)
    daemon.members.write(45 * BLOCK, b"decayed", 0)
    # Another sync begins in the middle of the pass, and the daemon ends before it is over.
    syncing = {daemon.array.uuid: replace(daemon.array, sync=Sync("recover", 0, 1, 1))}
    daemon.members.on_hold = lambda: setattr(daemon, "known", syncing)
    daemon.voting.want(daemon.array)
    daemon.until(lambda: daemon.standing is not None and daemon.standing.undecided)
    assert daemon.standing.pending
    daemon.members.on_hold, daemon.known = (lambda: None), {daemon.array.uuid: daemon.array}
    daemon.voting = daemon.begun()
    daemon.until(lambda: not daemon.standing.pending)
    assert (daemon.standing.healed, daemon.standing.undecided) == (BLOCK, BLOCK)


def test_without_a_resource_on_it_nobody_can_say(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voting, "resources_above", lambda device, folder: [])
    daemon.members.write(3 * BLOCK, b"decayed", 1)
    daemon.voting.want(daemon.array)
    looks = itertools.count()
    daemon.until(lambda: next(looks) > 100 and daemon.standing is None)
    assert daemon.told == [] and daemon.members.writes == []


def test_a_resource_that_is_deleted_meanwhile_or_what_sysfs_says_does_not_end_it_for_all(
    tmp_path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.members.write(3 * BLOCK, b"decayed", 1)
    odd = daemon.members.sysfs / daemon.array.device / "md" / f"dev-{daemon.members.names[0]}" / "bad_blocks"
    odd.write_text("nobody knows\n")
    daemon.voting.want(daemon.array)
    with capture_logs() as logs:
        daemon.until(lambda: len(logs) > 1)
    assert {log["event"] for log in logs} == {"raid.vote-failed"} and daemon.standing.pending
    odd.unlink()
    # Defined when the files were looked at, and not any more when it is asked for.
    manager: Any = Manager.__new__(Manager)
    places, node = locations(directory=str(tmp_path)), SimpleNamespace(name="alpha")
    manager.places, manager.node, manager._runtimes = places, node, {}
    runtime = daemon.voting._manager
    daemon.voting._manager = manager
    daemon.until(lambda: "there is no resource" in daemon.standing.waits)
    daemon.voting._manager = runtime
    daemon.until(lambda: daemon.standing.settled)
    assert daemon.members.equal()
