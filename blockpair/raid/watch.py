"""Watches the arrays: looks when there is reason to, tells what has changed, has done what there is to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

from blockpair.errors import BlockpairError
from blockpair.raid.events import Event, Severity, changes, unsettled
from blockpair.raid.foresight import Foresight
from blockpair.raid.healer import Healer
from blockpair.raid.health import Health
from blockpair.raid.hints import Hints
from blockpair.raid.inventory import Inventory
from blockpair.raid.memory import Memory
from blockpair.raid.model import Array
from blockpair.raid.pacer import Pacer
from blockpair.raid.rules import Rules
from blockpair.raid.scrubber import Scrubber

_POLL_SECONDS = 2.0
# While something is on its way, for so many looks at most.
_SETTLE_SECONDS = 0.2
_SETTLE_LOOKS = 10


class Watch:
    """Tells what happens to the arrays and, as the rules say, does what needs no person.

    ``resources``: the directory of this node's resource files; ``speeds`` and ``scrubs``: where it is kept
    which speeds are to be written back, and when each array was scrubbed, None: nowhere; ``busy``: whether a
    scrub has to wait for something else; ``may_heal``: false while another program of this machine heals.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        resources: Path | None = None,
        speeds: Path | None = None,
        scrubs: Path | None = None,
        busy: Callable[[], bool] = lambda: False,
        may_heal: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules, self._clock, self._may_heal = rules, clock, may_heal
        self._hints = Hints()
        self._inventory = Inventory()
        self._foresight = Foresight(rules.replace_at)
        self._healer = Healer(rules, resources, clock)
        self._pacer = Pacer(rules.latency_ms, Memory(speeds), clock)
        self._scrubber = Scrubber(rules, Memory(scrubs), busy)
        self._ended = False
        self.arrays: Mapping[str, Array] | None = None
        """As they were at the last look, by UUID; None before it, or where they cannot be seen."""

    @property
    def health(self) -> Mapping[str, Health]:
        """Of the members, by their kernel names, at the last look."""
        return self._foresight.health

    def end(self) -> None:
        """Have `events` end soon. For any thread."""
        self._ended = True
        self._hints.wake()

    def events(self) -> Generator[Event, None, None]:
        """Every event, until `end`; first the arrays as they are."""
        before: Mapping[str, Array] = {}
        came: set[str] | None = None
        problem, settling = "", 0
        with self._hints as hints:
            try:
                while not self._ended:
                    try:
                        after = self._inventory.arrays()
                    except BlockpairError as error:
                        self.arrays = None
                        # mdadm may be missing, or its file unreadable, for a while only.
                        if error.message != problem:
                            problem = error.message
                            yield Event("", "", "watch.problem", Severity.WARNING, problem, error.remedy)
                        new = hints.wait(_POLL_SECONDS)
                        came = None if came is None else came | new
                        continue
                    problem = ""
                    if settling < _SETTLE_LOOKS and unsettled(before, after):
                        settling += 1
                        new = hints.wait(_SETTLE_SECONDS)
                        came = None if came is None else came | new
                        continue
                    settling = 0
                    self.arrays = after
                    yield from changes(before, after)
                    yield from self._care(before, after, came)
                    before = after
                    came = hints.wait(_POLL_SECONDS)
            finally:
                self._pacer.end()

    def _care(
        self, before: Mapping[str, Array], after: Mapping[str, Array], came: set[str] | None
    ) -> Iterator[Event]:
        yield from self._foresight.look(after, self._clock())
        if not self._rules.heal:
            yield from self._healer.act(after, self._foresight.health, came)
        elif self._may_heal():
            yield from self._pacer.look(after.values())
            yield from self._healer.act(after, self._foresight.health, came)
            yield from self._scrubber.look(before, after)
