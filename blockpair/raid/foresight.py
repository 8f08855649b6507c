"""Looks at the members' health: what the disks tell of themselves, and how slow each is beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from blockpair.errors import BlockpairError
from blockpair.raid import latency, smart, smartctl, sysfs
from blockpair.raid.events import Event, Severity
from blockpair.raid.health import Health, score
from blockpair.raid.model import Array

_T = TypeVar("_T")
_WINDOW_SECONDS = 10.0
_SMART_SECONDS = 1800.0


class Foresight:
    """``replace_at``: the health at or below which a member should be replaced."""

    def __init__(self, replace_at: int) -> None:
        self._replace_at = replace_at
        self._windows = latency.Windows()
        self._asked: Future[dict[str, smart.Smart]] | None = None
        self._smart: dict[str, smart.Smart] = {}
        self._next_window = self._next_smart = float("-inf")
        self.health: Mapping[str, Health] = {}
        """Of each member, by its kernel name; replaced as a whole."""

    def look(self, arrays: Mapping[str, Array], now: float) -> Iterator[Event]:
        """Renew the members' health where it is time, and tell what got worse."""
        members = {member.device for array in arrays.values() for member in array.members}
        if members - self.health.keys():
            # It may be another disk than the one that had that name.
            self._next_smart = now
        self._smart = {device: told for device, told in self._smart.items() if device in self.health}
        if now >= self._next_window:
            self._next_window = now + _WINDOW_SECONDS
            self._windows.add({name: ticks for name in members if (ticks := sysfs.ticks(name)) is not None})
        if now >= self._next_smart and members and self._asked is None:
            self._next_smart = now + _SMART_SECONDS
            # A disk that is about to fail may take minutes to answer: nobody else waits for it.
            self._asked = beside(lambda: _smart_of(members))
        if self._asked is not None and self._asked.done():
            self._smart, self._asked = self._asked.result(), None
        before, found = self.health, {}
        for array in arrays.values():
            slow = self._windows.slowness(member.device for member in array.members)
            for member in array.members:
                device = member.device
                health = score(self._smart.get(device), slow.get(device, 1.0), self._replace_at)
                found[device] = health
                known = before.get(device)
                if health.score < (known.score if known else 100):
                    yield _worse(array, device, health)
        self.health = found


def beside(work: Callable[[], _T]) -> Future[_T]:
    """Do ``work`` in a thread that keeps no program from ending."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="bp-smart", daemon=True).start()
    return future


def _smart_of(devices: set[str]) -> dict[str, smart.Smart]:
    """What the devices tell; nothing where smartctl is not installed."""
    try:
        return {
            device: told
            for device in sorted(devices)
            if (told := smartctl.read(sysfs.whole_disk(device))) is not None
        }
    except BlockpairError:
        return {}


def _worse(array: Array, device: str, health: Health) -> Event:
    advice = (
        f"replace it before it fails: blockpair raid replace {array.name} {device}"
        if health.replace
        else "it is watched"
    )
    return Event(
        array.name,
        array.uuid,
        "member.health",
        Severity.WARNING,
        f"the health of {device} in {array.name} is {health.score}: {health.why}",
        advice,
        device,
    )
