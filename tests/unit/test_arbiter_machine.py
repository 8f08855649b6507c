"""When an arbiter is called, what its answers are good for, when it is tried again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from blockpair.arbiter import machine as rules
from blockpair.arbiter.interface import (
    ArbiterKind,
    ArbiterRefused,
    ArbiterUnreachable,
    Configuration,
    Key,
)
from blockpair.arbiter.machine import (
    Action,
    Ask,
    Cancel,
    Ending,
    Held,
    Machine,
    Read,
    ReadAsk,
    Refused,
    Say,
    Step,
    Swap,
    SwapAsk,
    Swapped,
    Unreachable,
    asked,
    ended,
    new_machine,
    parse_ask,
    woken,
)
from blockpair.arbiter.runner import Runner

ONE = Configuration(1, "a", frozenset("ab"))
TWO = Configuration(2, "a", frozenset("a"))
THREE = Configuration(3, "b", frozenset("b"))
NOW = 1000.0


def fresh(probe: float | None = None) -> Machine:
    return new_machine("seed", NOW, probe)


def run(machine: Machine, *steps: Callable[[Machine], Step]) -> tuple[Machine, list[Action]]:
    """The machine after ``steps``, and what the last of them wants done."""
    actions: tuple[Action, ...] = ()
    for step in steps:
        machine, actions = step(machine)
    return machine, list(actions)


def put(ask: Ask | None, at: float = NOW) -> Callable[[Machine], Step]:
    return lambda machine: asked(machine, ask, at)


def end(call: int, ending: Ending, at: float = NOW) -> Callable[[Machine], Step]:
    return lambda machine: ended(machine, call, ending, at)


def wake(at: float) -> Callable[[Machine], Step]:
    return lambda machine: woken(machine, at)


def test_a_read_is_answered_with_what_the_arbiter_holds() -> None:
    machine, actions = run(fresh(), put(ReadAsk(1)))
    assert actions == [Read(1)]
    assert run(machine, end(1, Held(ONE)))[1] == [Say(1, ONE)]
    assert run(machine, end(1, Held(None)))[1] == [Say(1, None)]


def test_a_swap_that_was_done_is_answered_with_what_it_made() -> None:
    machine, actions = run(fresh(), put(SwapAsk(1, ONE, TWO)))
    assert actions == [Swap(1, ONE, TWO)]
    assert run(machine, end(1, Swapped(True)))[1] == [Say(1, TWO)]


def test_a_swap_that_was_not_done_is_answered_with_what_is_read_at_once() -> None:
    machine, actions = run(fresh(), put(SwapAsk(1, ONE, TWO)), end(1, Swapped(False)))
    assert actions == [Read(2)]
    assert run(machine, end(2, Held(THREE)))[1] == [Say(1, THREE)]


@pytest.mark.parametrize("ending", [Unreachable("cut"), Refused("no rights")])
def test_a_swap_of_unknown_outcome_is_read_again_and_never_just_repeated(ending: Ending) -> None:
    machine, actions = run(fresh(), put(SwapAsk(1, ONE, TWO)), end(1, ending))
    assert actions == []
    assert machine.wake_at is not None
    machine, actions = run(machine, wake(machine.wake_at))
    assert actions == [Read(2)]
    # As long as that is not answered either.
    machine, _ = run(machine, end(2, Unreachable("cut")))
    assert machine.wake_at is not None
    machine, actions = run(machine, wake(machine.wake_at))
    assert actions == [Read(3)]
    # Whatever it holds: the engine judges.
    assert run(machine, end(3, Held(ONE)))[1] == [Say(1, ONE)]
    assert run(machine, end(3, Held(TWO)))[1] == [Say(1, TWO)]


def test_a_new_ask_does_not_wait_for_the_call_of_an_older_one() -> None:
    machine, actions = run(fresh(), put(ReadAsk(1)), put(ReadAsk(2)))
    assert actions == [Cancel(1), Read(2)]
    # What the older one brings after all was true before the new one was put.
    machine, actions = run(machine, end(1, Held(ONE)))
    assert actions == [] and machine.contact.last is None
    assert run(machine, end(2, Held(TWO)))[1] == [Say(2, TWO)]


def test_a_swap_after_one_that_was_given_up_begins_with_a_read() -> None:
    machine, actions = run(fresh(), put(SwapAsk(1, ONE, TWO)), put(SwapAsk(2, TWO, THREE)))
    assert actions == [Cancel(1), Read(2)]
    assert run(machine, end(2, Held(ONE)))[1] == [Say(2, ONE)]


def test_an_ask_withdrawn_is_answered_no_more() -> None:
    machine, actions = run(fresh(), put(ReadAsk(1)), put(None))
    assert actions == [Cancel(1)], "its call does nothing more either"
    assert run(machine, end(1, Held(ONE), NOW + 1)) == (machine, [])


def test_whether_the_arbiter_answers_is_looked_at_again_after_an_ask_was_withdrawn() -> None:
    machine, _ = run(fresh(probe=30.0), put(SwapAsk(1, ONE, TWO)), put(None))
    assert machine.wake_at is not None
    machine, actions = run(machine, wake(machine.wake_at))
    assert actions == [Read(2)]
    # The swap that was given up may have been done: what is asked next begins with a read.
    assert run(machine, put(SwapAsk(2, ONE, TWO)))[1] == [Cancel(2), Read(3)]


def test_the_same_ask_again_changes_nothing() -> None:
    machine, _ = run(fresh(), put(ReadAsk(1)))
    assert asked(machine, ReadAsk(1), NOW) == (machine, ())
    done, _ = run(machine, end(1, Held(ONE)))
    assert asked(done, ReadAsk(1), NOW) == (done, ())


def test_pauses_grow_and_a_new_ask_ends_them() -> None:
    machine, _ = run(fresh(), put(ReadAsk(1)))
    now, pauses = NOW, []
    for call in range(1, 12):
        machine, _ = run(machine, end(call, Unreachable("cut"), now))
        assert machine.wake_at is not None
        pauses.append(machine.wake_at - now)
        # A timer that fires early begins nothing.
        assert woken(machine, machine.wake_at - 0.001) == (machine, ())
        now = machine.wake_at
        machine, actions = run(machine, wake(now))
        assert actions == [Read(call + 1)]
    assert all(
        0.5 * whole <= pause <= whole
        for pause, whole in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2] + [5.0] * 5, strict=True)
    )
    machine, _ = run(machine, end(12, Unreachable("cut"), now))
    machine, actions = run(machine, put(ReadAsk(2), now))
    assert actions == [Read(13)] and machine.wake_at is None
    machine, _ = run(machine, end(13, Unreachable("cut"), now))
    assert machine.wake_at is not None and machine.wake_at - now <= 0.1


def test_pauses_of_two_resources_differ_and_of_one_are_the_same_again() -> None:
    def pause(seed: str) -> float | None:
        machine = new_machine(seed, NOW)
        return run(machine, put(ReadAsk(1)), end(1, Unreachable("cut")))[0].wake_at

    assert pause("x") == pause("x") != pause("y")


def test_what_a_person_must_mend_is_tried_seldom() -> None:
    machine, _ = run(fresh(), put(ReadAsk(1)), end(1, Refused("unknown cluster")))
    assert machine.wake_at is not None and machine.wake_at - NOW >= 2.5


def test_how_the_arbiter_did_is_known() -> None:
    machine, _ = run(fresh(), put(ReadAsk(1)), end(1, Held(ONE), NOW + 1), put(ReadAsk(2)))
    assert machine.contact == rules.Contact(last=NOW + 1)
    machine, _ = run(
        machine, end(2, Unreachable("cut"), NOW + 2), wake(NOW + 3), end(3, Refused("no"), NOW + 4)
    )
    assert machine.contact == rules.Contact(NOW + 1, NOW + 2, "no", refused=True)
    machine, _ = run(machine, wake(NOW + 10), end(4, Held(ONE), NOW + 11))
    assert machine.contact == rules.Contact(last=NOW + 11)


def test_with_nothing_asked_it_is_looked_whether_the_arbiter_answers() -> None:
    machine = fresh(probe=30.0)
    assert machine.wake_at is not None and NOW + 15 <= machine.wake_at <= NOW + 30
    machine, actions = run(machine, wake(machine.wake_at))
    assert actions == [Read(1)]
    # Nobody asked: nobody is told.
    machine, actions = run(machine, end(1, Held(ONE), NOW + 30))
    assert actions == [] and machine.contact.last == NOW + 30
    assert machine.wake_at is not None and machine.wake_at >= NOW + 45
    machine, _ = run(machine, wake(machine.wake_at))
    # An ask does not wait for it, nor take its answer.
    machine, actions = run(machine, put(ReadAsk(1)))
    assert actions == [Cancel(2), Read(3)]


def test_asks_are_read_as_the_engine_writes_them() -> None:
    assert parse_ask("null") is None
    assert parse_ask('{"ask": 7, "do": "read"}') == ReadAsk(7)
    text = {"ask": 8, "do": "swap", "expected": ONE.document(), "next": TWO.document()}
    assert parse_ask(json.dumps(text)) == SwapAsk(8, ONE, TWO)
    assert parse_ask(json.dumps({**text, "expected": None})) == SwapAsk(8, None, TWO)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"ask": "7", "do": "read"}', '{"ask": 7}', '{"ask": 7, "do": "swap", "next": {}}', "x"],
)
def test_what_is_no_ask_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_ask(text)


# -- Every way through a small world


@dataclass(frozen=True)
class _Seen:
    """What an observer of the actions knows."""

    flying: int | None = None
    kinds: tuple[tuple[int, bool], ...] = ()
    """Calls begun: number, and whether it is a swap."""
    for_ask: tuple[tuple[int, int], ...] = ()
    """Which ask was open when a call began."""
    unread: bool = False
    told: frozenset[int] = frozenset()
    newest: int = 0


ASKS: list[Ask | None] = [None, ReadAsk(1), SwapAsk(2, ONE, TWO), SwapAsk(3, TWO, THREE), ReadAsk(4)]
ENDINGS: dict[bool, list[Ending]] = {
    False: [Held(ONE), Held(None), Unreachable("cut"), Refused("no")],
    True: [Swapped(True), Swapped(False), Unreachable("cut"), Refused("no")],
}


def _observe(
    seen: _Seen, machine: Machine, actions: tuple[Action, ...], ending: tuple[int, Ending] | None
) -> _Seen:
    if machine.ask is not None:
        seen = replace(seen, newest=machine.ask.number)
    if ending is not None:
        call, what = ending
        if seen.flying == call:
            seen = replace(seen, flying=None)
            if isinstance(what, Held) or what == Swapped(True):
                seen = replace(seen, unread=False)
    for action in actions:
        match action:
            case Cancel(call):
                assert seen.flying == call
                seen = replace(seen, flying=None)
            case Read(call) | Swap(call):
                assert seen.flying is None, "two calls at a time"
                swap = isinstance(action, Swap)
                assert not (swap and seen.unread), "two swaps with no read between them"
                ask = machine.ask.number if machine.ask else 0
                if isinstance(action, Swap):
                    assert isinstance(machine.ask, SwapAsk)
                    assert (action.expected, action.next) == (machine.ask.expected, machine.ask.next)
                seen = replace(
                    seen,
                    flying=call,
                    kinds=(*seen.kinds, (call, swap)),
                    for_ask=(*seen.for_ask, (call, ask)),
                    unread=seen.unread or swap,
                )
            case Say(ask, found):
                assert ask not in seen.told, "an ask answered twice"
                assert machine.ask is not None and ask == machine.ask.number, (
                    "an ask answered that is not open"
                )
                assert ending is not None, "an answer out of nothing"
                call, what = ending
                assert dict(seen.for_ask)[call] == ask, "an answer of a time before the ask"
                if isinstance(what, Held):
                    assert found == what.configuration
                else:
                    assert what == Swapped(True) and isinstance(machine.ask, SwapAsk)
                    assert found == machine.ask.next
                seen = replace(seen, told=seen.told | {ask})
    if machine.ask is not None and machine.ask.number not in seen.told:
        assert seen.flying is not None or machine.wake_at is not None, "an ask that nobody will answer"
    return seen


def test_every_way_through_a_small_world_keeps_the_rules() -> None:
    """All orders of asks, endings (late ones too) and wake-ups, eight steps deep."""
    start = (fresh(), _Seen())
    level, reached = {start}, {start}
    for _ in range(8):
        following: set[tuple[Machine, _Seen]] = set()
        for machine, seen in level:
            steps: list[tuple[Step, tuple[int, Ending] | None]] = [
                # An ask that was withdrawn is never put again.
                (asked(machine, ask, NOW), None)
                for ask in ASKS
                if ask is None or ask.number > seen.newest or ask == machine.ask
            ]
            if machine.wake_at is not None:
                steps.append((woken(machine, machine.wake_at), None))
            for call, swap in seen.kinds[-2:]:
                steps += [(ended(machine, call, what, NOW), (call, what)) for what in ENDINGS[swap]]
            for (after, actions), ending in steps:
                following.add((after, _observe(seen, after, actions, ending)))
        level = following - reached
        reached |= level
    assert len(reached) > 2000


# -- The runner


class _Engine:
    """Puts asks, and keeps what it is told."""

    def __init__(self) -> None:
        self.open = "null"
        self.told: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    def asks(self) -> str:
        return self.open

    def arbiter_says(self, ask: int, configuration: str) -> None:
        self.told.put_nowait((ask, configuration))


class _Arbiter:
    """Holds one configuration, and fails as it is told: once for each entry of ``faults``."""

    kind: ArbiterKind = "witness"

    def __init__(self, holds: Configuration | None) -> None:
        self.holds = holds
        self.faults: list[Exception | None] = []
        self.calls: list[str] = []
        self.lose_answers = False

    async def _fail(self, what: str) -> None:
        self.calls.append(what)
        if self.faults:
            fault = self.faults.pop(0)
            if fault is None:
                await asyncio.get_running_loop().create_future()
            else:
                raise fault

    async def read(self, key: Key) -> Configuration | None:
        await self._fail("read")
        return self.holds

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        if not self.lose_answers:
            await self._fail("swap")
        if done := self.holds == expected:
            self.holds = new
        if self.lose_answers:
            await self._fail("swap")
        return done

    async def close(self) -> None:
        pass


KEY = Key("c", "0" * 32, "r0")


def _with_runner(
    arbiter: _Arbiter, engine: _Engine, body: Callable[[Runner], object], call_seconds: float = 3.0
) -> tuple[int, str]:
    """What the engine is told first."""

    async def main() -> tuple[int, str]:
        runner = Runner(KEY, engine, arbiter, call_seconds=call_seconds)
        runner.start()
        try:
            body(runner)
            async with asyncio.timeout(20):
                return await engine.told.get()
        finally:
            await runner.stop()
            await runner.stop()

    return asyncio.run(main())


SWAP = json.dumps({"ask": 5, "do": "swap", "expected": ONE.document(), "next": TWO.document()})


def _put(engine: _Engine, text: str) -> Callable[[Runner], None]:
    def body(runner: Runner) -> None:
        engine.open = text
        runner.wake()

    return body


def test_the_runner_swaps_and_tells() -> None:
    arbiter, engine = _Arbiter(ONE), _Engine()
    ask, told = _with_runner(arbiter, engine, _put(engine, SWAP))
    assert (ask, json.loads(told)) == (5, TWO.document())
    assert arbiter.calls == ["swap"] and arbiter.holds == TWO


def test_the_runner_reads_what_became_of_a_swap_whose_answer_was_lost() -> None:
    arbiter, engine = _Arbiter(ONE), _Engine()
    arbiter.lose_answers = True
    arbiter.faults = [ArbiterUnreachable("cut")]
    ask, told = _with_runner(arbiter, engine, _put(engine, SWAP))
    assert (ask, json.loads(told)) == (5, TWO.document())
    assert arbiter.calls == ["swap", "read"]


@pytest.mark.parametrize(
    "fault", [ArbiterUnreachable("cut"), ArbiterRefused("no rights"), RuntimeError("a fault of ours"), None]
)
def test_the_runner_tries_again_whatever_went_wrong(
    fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LONGEST_PAUSE_SECONDS", 0.2)
    arbiter, engine = _Arbiter(ONE), _Engine()
    arbiter.faults = [fault]
    ask, told = _with_runner(
        arbiter, engine, _put(engine, '{"ask": 9, "do": "read"}'), call_seconds=0.05 if fault is None else 3.0
    )
    assert (ask, json.loads(told)) == (9, ONE.document())
    assert arbiter.calls == ["read", "read"]


def test_the_runner_says_that_an_arbiter_holds_nothing() -> None:
    engine = _Engine()
    assert _with_runner(_Arbiter(None), engine, _put(engine, '{"ask": 9, "do": "read"}')) == (9, "null")
