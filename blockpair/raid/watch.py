"""Watches the arrays: waits for what the kernel tells, looks, and says what has changed.

Three things end a wait, each of them a mere hint to look: a uevent of a block device (by pyudev); the
kernel's word on ``/proc/mdstat``, for a member that fails sends no uevent; and time, should both be missed.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blockpair.errors import BlockpairError
from blockpair.raid import latency, mdadm, smart, smartctl, sysfs
from blockpair.raid.apply import carry_out
from blockpair.raid.events import Event, Severity, changes
from blockpair.raid.heal import MOST_RETURNS, Action, actions, may_return
from blockpair.raid.health import Health, score
from blockpair.raid.inventory import Inventory
from blockpair.raid.model import Array

_POLL_SECONDS = 2.0
_WINDOW_SECONDS = 10.0
_SMART_SECONDS = 1800.0
# What failed is tried again after this time.
_REST_SECONDS = 60.0
_MDSTAT = Path("/proc/mdstat")
_Key = tuple[str, str, str | None]


class Hints:
    """Waits until there is reason to look. A context manager; it listens from the moment it is entered, so
    that nothing is missed between the first look and the first wait.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._poll = select.poll()
        self._monitors: dict[int, Any] = {}
        self._mdstat = -1

    def __enter__(self) -> Hints:
        import pyudev  # type: ignore[import-untyped]

        context = pyudev.Context()
        # The kernel's own word comes at once, udev's when names and links are there.
        for source in ("kernel", "udev"):
            monitor = pyudev.Monitor.from_netlink(context, source=source)
            monitor.filter_by("block")
            monitor.start()
            self._monitors[monitor.fileno()] = monitor
            self._poll.register(monitor.fileno(), select.POLLIN)
        self._open_mdstat()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, seconds: float) -> set[str]:
        """Return when something may have changed, or after ``seconds``; the devices that came."""
        came: set[str] = set()
        if self._mdstat < 0:
            self._open_mdstat()
        for descriptor, _ in self._poll.poll(max(0.0, seconds) * 1000):
            if descriptor == self._mdstat:
                self._reread()
                continue
            while (device := self._monitors[descriptor].poll(timeout=0)) is not None:
                if device.action == "add":
                    came.add(device.sys_name)
        return came

    def _open_mdstat(self) -> None:
        """It is not there before md is loaded; the first array's uevent is heard all the same."""
        try:
            self._mdstat = os.open(_MDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._stack.callback(os.close, self._mdstat)
        self._poll.register(self._mdstat, select.POLLPRI | select.POLLERR)
        self._reread()

    def _reread(self) -> None:
        """The file must be read for its next change to be told."""
        os.lseek(self._mdstat, 0, os.SEEK_SET)
        while os.read(self._mdstat, 1 << 16):
            pass


class Watch:
    """Tells what happens to the arrays and, with ``heal``, does what needs no person."""

    def __init__(self, *, heal: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._heal, self._clock = heal, clock
        self._inventory = Inventory()
        self._windows = latency.Windows()
        self._smart: dict[str, smart.Smart] = {}
        self._health: dict[str, Health] = {}
        self._next_window = self._next_smart = float("-inf")
        self._proposed: set[_Key] = set()
        self._rest_until: dict[_Key, float] = {}
        self._returns: dict[str, list[float]] = {}

    def events(self) -> Iterator[Event]:
        """Every event, without end; first the arrays as they are."""
        before: dict[str, Array] = {}
        came: set[str] | None = None
        problem = ""
        with Hints() as hints:
            while True:
                try:
                    after = self._inventory.arrays()
                except BlockpairError as error:
                    # mdadm may be missing, or its file unreadable, for a while only.
                    if error.message != problem:
                        problem = error.message
                        yield Event("", "", "watch.problem", Severity.WARNING, problem, error.remedy)
                    new = hints.wait(_POLL_SECONDS)
                    came = None if came is None else came | new
                    continue
                problem = ""
                yield from changes(before, after)
                before = after
                yield from self._look_ahead(after)
                yield from self._act(after, came)
                came = hints.wait(_POLL_SECONDS)

    def _look_ahead(self, arrays: dict[str, Array]) -> Iterator[Event]:
        """Renew the members' health where it is time, and tell what got worse."""
        now = self._clock()
        members = {member.device for array in arrays.values() for member in array.members}
        if now >= self._next_window:
            self._next_window = now + _WINDOW_SECONDS
            self._windows.add({name: ticks for name in members if (ticks := sysfs.ticks(name)) is not None})
        if now >= self._next_smart:
            self._next_smart = now + _SMART_SECONDS
            self._smart = _smart_of(members)
        for array in arrays.values():
            slow = self._windows.slowness(member.device for member in array.members)
            for member in array.members:
                health = score(self._smart.get(member.device), slow.get(member.device, 1.0))
                known, self._health[member.device] = self._health.get(member.device), health
                if health.score < (known.score if known else 100):
                    yield _worse(array, member.device, health)

    def _act(self, arrays: dict[str, Array], came: set[str] | None) -> Iterator[Event]:
        """Do, or without ``heal`` only tell, what there is to do. ``came``: the devices that were just
        plugged in; None at the start. A member that was there already, and is in no array, was perhaps taken
        out by a person: it is told of and not touched.
        """
        proposed = set()
        returned, flapping = self._returned(arrays, came)
        yield from flapping
        for action in actions(arrays, self._health, returned):
            key = (action.code, action.uuid, action.device)
            if not self._heal or (came is None and action.code == "member.returns"):
                proposed.add(key)
                if key not in self._proposed:
                    yield _event(action, "to do", "; ".join(step.shown for step in action.steps))
            elif self._clock() >= self._rest_until.get(key, float("-inf")):
                yield self._done(action, key)
        self._proposed = proposed

    def _done(self, action: Action, key: _Key) -> Event:
        try:
            carry_out(action.steps)
        except BlockpairError as error:
            self._rest_until[key] = self._clock() + _REST_SECONDS
            return _event(action, "failed", error.message, Severity.WARNING)
        return _event(action, "done", "")

    def _returned(
        self, arrays: dict[str, Array], came: set[str] | None
    ) -> tuple[dict[str, str], list[Event]]:
        """Of the devices that came, or at the start of all, those in no array that were members of one which
        lacks a member; and events about those that came too often.
        """
        if came == set() or not any(array.empty_slots for array in arrays.values()):
            return {}, []
        now = self._clock()
        found: dict[str, str] = {}
        flapping: list[Event] = []
        for device in sysfs.idle_devices():
            if came is not None and device not in came:
                continue
            block = mdadm.examine(f"/dev/{device}")
            if block is None or block.uuid.lower() not in arrays:
                continue
            times = self._returns.setdefault(device, [])
            if may_return(times, now):
                times.append(now)
                found[device] = block.uuid.lower()
            else:
                flapping.append(_flaps(arrays[block.uuid.lower()], device))
        return found, flapping


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


def _flaps(array: Array, device: str) -> Event:
    return Event(
        array.name,
        array.uuid,
        "member.flaps",
        Severity.WARNING,
        f"{device} of {array.name} came back more than {MOST_RETURNS} times within an hour",
        f"it is left out: see its cable and its health, then: blockpair raid readd {array.name} {device}",
        device,
    )


def _worse(array: Array, device: str, health: Health) -> Event:
    reasons = "; ".join(reason.text for reason in health.reasons)
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
        f"the health of {device} in {array.name} is {health.score}: {reasons}",
        advice,
        device,
    )


def _event(action: Action, state: str, what: str, severity: Severity = Severity.INFO) -> Event:
    consequence = f"{state}: {what}" if what else state
    return Event(action.array, action.uuid, action.code, severity, action.reason, consequence, action.device)
