"""A runner over an engine that only says what it is told to: what is brought up, stopped, finished and tried
again.

The service is a pair of hooks, which need no rights.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from blockpair.config.service import HooksTable, ServiceTable
from blockpair.daemon.desired import BootMarker
from blockpair.daemon.service_files import Definition, Places
from blockpair.daemon.service_replica import EngineReplica
from blockpair.daemon.service_runner import ServiceRunner
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.machine import Machine
from blockpair.failover.plan import Limits, Role, Watchdog, Wish
from blockpair.failover.progress import Outcome
from blockpair.status.engine import EngineStatus
from tests.unit.status_samples import engine

HOOK = """\
#!/bin/sh
cd "${0%/*}" || exit 1
echo "$1" >>said
if [ -e "hang-$1" ]; then
    : >hanging
    # Until it may go on.
    while [ -e "hang-$1" ]; do sleep 0.05; done
fi
[ ! -e "refuse-$1" ]
"""


@dataclass
class Engine:
    """What a runner asks of its replica. ``look``: before each answer to `status`, once it is known."""

    primary: bool = False
    offers: int = 0
    refusal: BlockpairError | None = None
    silent: bool = False
    """Whether it answers nothing about its role but its status."""
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    """What a promotion, with `hangs`, waits for, whether or not it is cut."""
    hangs: bool = False
    hung: bool = False
    keeps_epoch: bool = False
    offering: asyncio.Event | None = None
    """What an offer of the device waits for."""
    look: Callable[[], asyncio.Future[None] | None] = field(default=lambda: None)

    async def status(self) -> EngineStatus:
        found = replace(engine(), role="Primary" if self.primary else "Secondary")
        if (waits := self.look()) is not None:
            await waits
        return found

    async def role(self) -> Role:
        if self.silent:
            raise BlockpairError(ErrorKind.FAILED, "it is silent", "wait")
        return Role.PRIMARY if self.primary else Role.SECONDARY

    async def has_epoch(self) -> bool:
        return True

    async def watchdog(self) -> Watchdog:
        return Watchdog.NONE

    async def device(self) -> Path | None:
        return None

    async def fail_io(self) -> None:
        self.hanging.set()

    async def offer(self) -> None:
        self.offers += 1
        if self.offering is not None:
            await self.offering.wait()

    async def promote(self) -> None:
        self.primary = True
        if self.hangs:
            self.hung = True
            hanging = asyncio.ensure_future(self.hanging.wait())
            try:
                await asyncio.shield(hanging)
            except asyncio.CancelledError:
                await hanging
                raise

    async def demote(self) -> None:
        self.primary = False

    async def take_epoch(self) -> None:
        """There is nobody to tell."""

    async def give_epoch(self) -> None:
        if self.keeps_epoch:
            raise BlockpairError(ErrorKind.UNSAFE, "the peer is not in sync", "wait")


@dataclass
class Node:
    """A node's directory, and its engine, over the lives of its daemon."""

    directory: Path
    engine: Engine = field(default_factory=Engine)
    defined: bool = True
    notes: list[str] = field(default_factory=list)
    changed: asyncio.Event | None = None

    def runner(self) -> ServiceRunner:
        hook = str(self.directory / "hook")
        table = ServiceTable(hooks=HooksTable(promoted=hook, demoting=hook))

        def place(name: str) -> Path:
            return self.directory / name

        return ServiceRunner(
            "r0",
            cast(EngineReplica, self.engine),
            Places(place("journal"), place("device"), place("definition"), place("list")),
            definition=lambda: Definition("r0", table) if self.defined else None,
            held=BootMarker(place("held"), "boot"),
            moving=BootMarker(place("moving"), "boot"),
            note=self.note,
            limits=lambda: Limits(kill=0.3),
        )

    def note(self, _severity: str, name: str, _text: str) -> None:
        """As the engine's own events: whoever waits for one wakes up."""
        self.notes.append(name)
        if self.changed is not None:
            self.changed.set()

    def change(self) -> asyncio.Event:
        self.changed = asyncio.Event()
        return self.changed

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[ServiceRunner]:
        """A daemon's life; at its end it is as if it were killed, but for its processes."""
        runner = self.runner()
        await runner.load()
        watch = asyncio.create_task(runner.watch(self.change, lambda: None))
        try:
            yield runner
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await runner.close()

    async def looks(self, more: int) -> None:
        """Until the watch has looked so many times more."""
        seen: list[int] = []
        self.engine.look = lambda: seen.append(1)
        await until(lambda: len(seen) >= more)

    def said(self) -> list[str]:
        file = self.directory / "said"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "hook").write_text(HOOK)
    (tmp_path / "hook").chmod(0o755)
    return Node(tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what a hook leaves has no event
            await asyncio.sleep(0.01)


def state(runner: ServiceRunner) -> str | None:
    status = runner.status()
    return None if status is None else status.state


def test_it_follows_the_role(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            await until(lambda: state(runner) == "stopped")
            node.engine.primary = True
            await until(lambda: state(runner) == "up")
            assert node.engine.offers and node.said() == ["promoted"]
            node.engine.primary = False
            await until(lambda: state(runner) == "stopped" and not runner.present)
            # Run, and not asked whether it agrees: see `Wish.STOP`.
            assert node.said() == ["promoted", "demoting"]
        # A life later it is Primary still: what is up is not brought up by halves.
        node.engine.primary = True
        async with node.life() as runner:
            await until(lambda: state(runner) == "up")

    asyncio.run(run())


def test_a_command_brings_it_up_and_down_and_a_failure_takes_it_back(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            assert (await runner.carry_out(Wish.PROMOTE)).outcome is Outcome.DONE
            assert node.engine.primary and state(runner) == "up"
            # Again: there is nothing to do.
            assert (await runner.carry_out(Wish.PROMOTE)).steps == () and node.said() == ["promoted"]
            (node.directory / "refuse-demoting").touch()
            assert (await runner.carry_out(Wish.DEMOTE)).outcome is Outcome.UNDONE
            assert node.engine.primary and state(runner) == "up"
            (node.directory / "refuse-demoting").unlink()
            assert (await runner.carry_out(Wish.DEMOTE)).outcome is Outcome.DONE
            (node.directory / "refuse-promoted").touch()
            result = await runner.carry_out(Wish.PROMOTE)
            assert (result.outcome, result.step) == (Outcome.UNDONE, "hook promoted")
            assert "hook promoted" in runner.error(result).message
            assert not node.engine.primary and not runner.present and state(runner) == "stopped"

    asyncio.run(run())


def test_of_two_promotions_at_once_the_second_finds_nothing_left_to_do(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:

            async def promote() -> int:
                with runner.command():
                    result = await runner.carry_out(Wish.PROMOTE)
                assert result.outcome is Outcome.DONE
                return len(result.steps)

            (node.directory / "hang-promoted").touch()
            first = asyncio.create_task(promote())
            await until((node.directory / "hanging").exists)
            second = asyncio.create_task(promote())
            await node.looks(2)
            (node.directory / "hang-promoted").unlink()
            assert (await first, await second) == (2, 0) and node.said() == ["promoted"]

    asyncio.run(run())


def test_a_way_up_that_failed_by_itself_is_told_and_tried_again(node: Node) -> None:
    async def run() -> None:
        (node.directory / "refuse-promoted").touch()
        node.engine.primary = True
        async with node.life() as runner:
            await until(lambda: state(runner) == "failed")
            status = runner.status()
            assert status is not None and "hook promoted" in str(status.why) and status.remedy
            # It was Primary before: that is not the run's own to undo.
            assert node.engine.primary
            (node.directory / "refuse-promoted").unlink()
            await until(lambda: state(runner) == "up")
            assert len(node.said()) >= 2

    asyncio.run(run())


def test_a_failure_is_forgotten_with_the_definition(node: Node) -> None:
    async def run() -> None:
        (node.directory / "refuse-promoted").touch()
        node.engine.primary = True
        async with node.life() as runner:
            await until(lambda: state(runner) == "failed" and not runner.present)
            node.defined = False
            assert runner.status() is None

    asyncio.run(run())


def test_a_stop_that_cannot_even_begin_is_tried_again_after_a_pause(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            await runner.carry_out(Wish.PROMOTE)
            node.engine.silent, node.engine.primary = True, False
            await until(lambda: "service.failed" in node.notes)
            await node.looks(8)
            # Each look would have been followed by a stop.
            assert node.notes.count("service.stops") <= 4
            node.engine.silent = False
            await until(lambda: runner.at_rest)
            assert node.said() == ["promoted", "demoting"]

    asyncio.run(run())


def test_a_way_down_that_turned_back_is_stopped_when_the_role_goes(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            await runner.carry_out(Wish.PROMOTE)
            node.engine.hangs = node.engine.keeps_epoch = True
            asked = asyncio.create_task(runner.carry_out(Wish.HAND_OVER))
            # It is brought back, and hangs there.
            await until(lambda: node.engine.hung)
            await node.looks(2)
            node.engine.primary = False
            with pytest.raises(BlockpairError, match="was cut"):
                await asked
            await until(lambda: runner.at_rest)
            assert node.said() == ["promoted", "demoting", "demoting"]

    asyncio.run(run())


def test_a_command_of_the_engine_that_hangs_does_not_keep_a_stop(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            node.engine.hangs = True
            asked = asyncio.create_task(runner.carry_out(Wish.PROMOTE))
            await until(lambda: node.engine.hung)
            await node.looks(2)
            node.engine.primary = False
            with pytest.raises(BlockpairError, match="was cut"):
                await asked
            assert node.engine.hanging.is_set()
            await until(lambda: runner.at_rest)

    asyncio.run(run())


def test_a_mount_that_somebody_took_away_is_missed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with node.life() as runner:
            await runner.carry_out(Wish.PROMOTE)
            answers = [False]

            async def mounted(_machine: Machine) -> bool:
                return not answers or answers.pop()

            monkeypatch.setattr(Machine, "mounted", mounted)
            await until(lambda: "service.mount-lost" in node.notes)
            await until(lambda: node.said() == ["promoted", "promoted"] and state(runner) == "up")

    asyncio.run(run())


def test_a_record_that_cannot_be_read_is_told_and_what_is_here_is_stopped(node: Node) -> None:
    async def run() -> None:
        (node.directory / "definition").write_text('{"of": "another version"}')
        async with node.life() as runner:
            assert "service.failed" in node.notes and runner.present
            await until(lambda: runner.at_rest)
            assert node.said() == ["demoting"] and not (node.directory / "definition").exists()

    asyncio.run(run())


def test_what_was_seen_before_a_command_began_stops_nothing(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            await until(lambda: state(runner) == "stopped")
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            looks: list[int] = []

            def look() -> asyncio.Future[None] | None:
                looks.append(1)
                return gate if len(looks) == 1 else None

            node.engine.look = look
            # The watch has seen a Secondary, and has not come to what follows from it.
            await until(lambda: bool(looks))
            assert (await runner.carry_out(Wish.PROMOTE)).outcome is Outcome.DONE
            gate.set_result(None)
            seen = len(looks)
            await until(lambda: len(looks) >= seen + 2)
            assert node.engine.primary and state(runner) == "up" and node.said() == ["promoted"]

    asyncio.run(run())


def test_a_demotion_while_the_device_is_being_offered_is_not_undone(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            node.engine.offering = asyncio.Event()
            node.engine.primary = True
            await until(lambda: node.engine.offers == 1)
            with runner.command():
                # As the engine's own `demote` does it, where nothing of the service is here yet.
                assert not runner.present
                node.engine.primary = False
                node.engine.offering.set()
                await runner.quiet()
            await until(lambda: runner.at_rest)
            assert not node.engine.primary and not runner.present and node.said() == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("wish", "moment", "ends_up"),
    [(Wish.PROMOTE, "promoted", True), (Wish.DEMOTE, "demoting", False), (Wish.HAND_OVER, "demoting", False)],
)
def test_a_run_that_was_cut_is_finished_by_the_next_daemon(
    node: Node, wish: Wish, moment: str, ends_up: bool
) -> None:
    async def run() -> None:
        async with node.life() as runner:
            if not ends_up:
                await runner.carry_out(Wish.PROMOTE)
            (node.directory / f"hang-{moment}").touch()
            asked = asyncio.create_task(runner.carry_out(wish))
            await until((node.directory / "hanging").exists)
        with pytest.raises(BlockpairError, match="was cut"):
            await asked
        (node.directory / f"hang-{moment}").unlink()
        async with node.life() as runner:
            await until(
                lambda: state(runner) == ("up" if ends_up else "stopped") and runner.at_rest != ends_up
            )
            assert node.engine.primary is ends_up

    asyncio.run(run())


def test_a_switchover_that_was_cut_between_its_halves_goes_on_here(node: Node) -> None:
    async def run() -> None:
        async with node.life() as runner:
            await runner.carry_out(Wish.PROMOTE)
            with runner.command():
                runner.move(begun=True)
                await runner.carry_out(Wish.HAND_OVER)
                assert not node.engine.primary
        async with node.life() as runner:
            await until(lambda: state(runner) == "up")
            assert node.engine.primary
            await until(lambda: not (node.directory / "moving").exists())

    asyncio.run(run())


def test_a_primary_without_its_service_stays_so_and_a_first_definition_waits_for_a_word(node: Node) -> None:
    async def run() -> None:
        node.defined, node.engine.primary = False, True
        async with node.life() as runner:
            await until((node.directory / "held").exists)
            node.defined = True
            await until(lambda: runner.held)
            assert state(runner) == "stopped" and node.said() == []
        async with node.life() as runner:
            await until(lambda: runner.held)
            assert (await runner.carry_out(Wish.PROMOTE)).outcome is Outcome.DONE
            assert not runner.held and node.said() == ["promoted"]
            # What is up goes on, and goes down, by the definition that it was brought up with.
            node.defined = False
            status = runner.status()
            assert status is not None and status.changed and status.state == "up"
            assert (await runner.carry_out(Wish.DEMOTE)).outcome is Outcome.DONE
            assert node.said() == ["promoted", "demoting"] and runner.status() is None

    asyncio.run(run())
