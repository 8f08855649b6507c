"""Begins scrubs when they are due (`scrubs`), and remembers when each array had its last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from blockpair.errors import BlockpairError
from blockpair.raid import steps
from blockpair.raid.apply import carry_out
from blockpair.raid.events import Event, Severity
from blockpair.raid.memory import Memory
from blockpair.raid.model import Array
from blockpair.raid.rules import Rules
from blockpair.raid.scrubs import due, scrubbed

# One that could not begin is tried again after this time.
_REST_SECONDS = 3600.0


class Scrubber:
    """``busy``: whether something else reads all of a disk now; ``now``: seconds since 1970."""

    def __init__(
        self, rules: Rules, memory: Memory, busy: Callable[[], bool], now: Callable[[], float] = time.time
    ) -> None:
        self._rules, self._memory, self._busy, self._now = rules, memory, busy, now
        self._rest_until = float("-inf")
        # Arrays whose scrub was begun here and has not ended, and what was remembered before.
        self._begun: dict[str, str | None] = {}

    def look(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> Iterator[Event]:
        """Remember the scrubs that ended, whoever began them, and begin the next."""
        if self._rules.scrub_seconds is None:
            return
        now = self._now()
        for uuid in scrubbed(before, after):
            self._begun.pop(uuid, None)
            self._remember(uuid, str(now))
        for uuid, earlier in list(self._begun.items()):
            array = after.get(uuid)
            if array is None or array.failed_slots:
                # Cut off by a failure, it has to be made again.
                self._remember(uuid, earlier)
                del self._begun[uuid]
        for uuid in after:
            if self._last(uuid) is None:
                # Of one that is seen for the first time nothing is known: it is not scrubbed at once.
                self._remember(uuid, str(now))
        last = {uuid: when for uuid in after if (when := self._last(uuid)) is not None}
        hour = time.localtime(now).tm_hour
        array = due(after.values(), last, self._rules, now, hour)
        if array is None or now < self._rest_until or self._busy():
            return
        yield from self._begin(array, now)

    def _begin(self, array: Array, now: float) -> Iterator[Event]:
        try:
            carry_out(steps.scrub(array, start=True))
        except BlockpairError as error:
            self._rest_until = now + _REST_SECONDS
            yield Event(
                array.name,
                array.uuid,
                "scrub.not-begun",
                Severity.WARNING,
                f"the scrub of {array.name} that is due could not begin: {error.message}",
                f"it is tried again; by hand: blockpair raid scrub start {array.name}",
            )
            return
        self._begun[array.uuid] = self._memory.get(array.uuid)
        self._remember(array.uuid, str(now))

    def _last(self, uuid: str) -> float | None:
        try:
            return float(self._memory.get(uuid) or "")
        except ValueError:
            return None

    def _remember(self, uuid: str, text: str | None) -> None:
        with suppress(OSError):
            self._memory.set(uuid, text)
