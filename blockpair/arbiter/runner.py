"""One resource and its arbiter: carries out what `blockpair.arbiter.machine` says, and decides nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import structlog

from blockpair.arbiter import machine as rules
from blockpair.arbiter.interface import Arbiter, ArbiterRefused, ArbiterUnreachable, Key
from blockpair.arbiter.machine import (
    Action,
    Cancel,
    Contact,
    Ending,
    Held,
    Machine,
    Read,
    Refused,
    Say,
    Step,
    Swap,
    Swapped,
    Unreachable,
)

CALL_SECONDS = 3.0
# What whoever asks for a promotion waits for an arbiter that answers at once or not at all.
ANSWER_SECONDS = 5.0
PROBE_SECONDS = 30.0


def clock() -> float:
    """Seconds that go on while the machine sleeps: what was true before a suspension is old after it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Engine(Protocol):
    """What is needed of an engine. Neither call waits."""

    def asks(self) -> str:
        """The open ask as JSON (`machine.parse_ask`)."""

    def arbiter_says(self, ask: int, configuration: str) -> None:
        """Tell it what the arbiter holds, as JSON."""


class Runner:
    """Asks ``arbiter`` for the engine of one resource, from `start` until `stop`, in one event loop.

    Whoever watches the engine's event descriptor calls `wake`. A call takes ``call_seconds`` at most; None:
    as long as the arbiter takes, which has an end of its own. ``probe_seconds``: see `Machine`.
    """

    def __init__(
        self,
        key: Key,
        engine: Engine,
        arbiter: Arbiter,
        *,
        call_seconds: float | None = CALL_SECONDS,
        probe_seconds: float | None = PROBE_SECONDS,
        now: Callable[[], float] = clock,
    ) -> None:
        self._key = key
        self._engine = engine
        self._arbiter = arbiter
        self._call_seconds = call_seconds
        self._now = now
        self._machine: Machine = rules.new_machine(key.resource_id, now(), probe_seconds)
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._log = structlog.get_logger().bind(part="arbiter", resource=key.name, kind=arbiter.kind)

    @property
    def contact(self) -> Contact:
        """How the arbiter did; times are those of `clock`."""
        return self._machine.contact

    def start(self) -> None:
        """Begin; in the event loop."""
        self._running = True
        self._set_timer()
        self.wake()

    def wake(self) -> None:
        """The engine may ask something else than before; in the event loop. Never waits."""
        if self._running:
            self._take(rules.asked(self._machine, rules.parse_ask(self._engine.asks()), self._now()))

    async def stop(self) -> None:
        """Ask nothing more. What a call under way does at the arbiter is not known. Idempotent."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls = list(self._calls.values())
        for task in calls:
            task.cancel()
        if calls:
            await asyncio.wait(calls)

    def _take(self, step: Step) -> None:
        before = self._machine.contact
        self._machine, actions = step
        self._tell(before, self._machine.contact)
        self._carry_out(actions)
        self._set_timer()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Read(call) | Swap(call):
                    self._calls[call] = asyncio.create_task(self._call(call, action))
                    self._calls[call].add_done_callback(partial(self._forget, call))
                case Cancel(call):
                    if (running := self._calls.get(call)) is not None:
                        running.cancel()
                case Say(ask, configuration):
                    document = None if configuration is None else configuration.document()
                    self._engine.arbiter_says(ask, json.dumps(document))

    async def _call(self, number: int, action: Read | Swap) -> None:
        ending = await self._ending(action)
        if self._running:
            self._take(rules.ended(self._machine, number, ending, self._now()))

    def _forget(self, number: int, _: asyncio.Task[None]) -> None:
        self._calls.pop(number, None)

    async def _ending(self, action: Read | Swap) -> Ending:
        try:
            async with asyncio.timeout(self._call_seconds):
                if isinstance(action, Read):
                    return Held(await self._arbiter.read(self._key))
                return Swapped(await self._arbiter.compare_and_swap(self._key, action.expected, action.next))
        except ArbiterRefused as error:
            return Refused(str(error))
        except ArbiterUnreachable as error:
            return Unreachable(str(error))
        except TimeoutError:
            return Unreachable(f"no answer within {self._call_seconds or 0:g} s")
        except Exception as error:
            # An arbiter that was built wrong must not end the asking, nor be taken for an answer.
            self._log.exception("arbiter.crash")
            return Unreachable(f"an error that was not expected: {type(error).__name__}")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running and (at := self._machine.wake_at) is not None:
            delay = max(0.0, at - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._take(rules.woken(self._machine, self._now()))

    def _tell(self, before: Contact, after: Contact) -> None:
        """Log what changed, once."""
        if after.error is not None and after.error != before.error:
            self._log.warning("arbiter.refused" if after.refused else "arbiter.unreachable", text=after.error)
        elif after.error is None and before.error is not None:
            self._log.info("arbiter.answers")
