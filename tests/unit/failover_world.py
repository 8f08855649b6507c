"""A machine that only remembers: what a plan's actions would change on a real one, and what goes wrong
there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from blockpair.config.service import Service, ServiceTable, service_config
from blockpair.failover.executor import StepFailed
from blockpair.failover.plan import Action, FileSystemState, MountState, Role, State, Verb, Watchdog

FULL = service_config(
    ServiceTable(
        mount="/srv/data",
        options=["noatime"],
        units=["db.service", "web.service"],
        vips=["192.0.2.10/24@eth0", "2001:db8::10/64@eth0"],
    ),
    Path("cluster.toml"),
)


class Killed(BaseException):
    """The process is gone, here and now."""


@dataclass
class World:
    """What is true of the machine. ``trouble`` is asked before and after each action and may raise."""

    service: Service
    primary: bool = False
    has_epoch: bool = False
    armed: bool = False
    mounted: bool = False
    clean: bool = False
    units: set[str] = field(default_factory=set)
    vips: set[str] = field(default_factory=set)
    checked: bool = False
    probed: bool = False
    reset: bool = False
    holders: set[str] = field(default_factory=set)
    """Who keeps the mount busy; a signal ends only those of that name."""
    actions: list[Action] = field(default_factory=list)
    trouble: Callable[[Action, str], None] = lambda _action, _moment: None

    def up(self) -> bool:
        """Whether the whole service runs here."""
        return (
            self.primary
            and self.mounted
            and self.units == set(self.service.units)
            and self.vips == {str(vip) for vip in self.service.vips}
        )

    def down(self) -> bool:
        """Whether nothing of it does."""
        return not (self.primary or self.mounted or self.units or self.vips)

    def check(self, *, superseded: bool = False) -> None:
        """The invariants, I9 among them. ``superseded``: the role went away by itself."""
        if self.reset:
            return
        assert not self.vips or self.mounted, "an address without the mount"
        assert not self.mounted or self.primary or superseded, "a mount without being Primary"
        assert not self.units or self.mounted, "a unit without the mount"

    async def observe(self) -> State:
        return State(
            role=Role.PRIMARY if self.primary else Role.SECONDARY,
            has_epoch=self.has_epoch,
            watchdog=Watchdog.ARMED if self.armed else Watchdog.DISARMED,
            file_system=FileSystemState.CLEAN if self.clean else FileSystemState.UNKNOWN,
            mount=MountState.MOUNTED if self.mounted else MountState.ABSENT,
            units=frozenset(self.units),
            vips=frozenset(self.vips),
        )

    async def perform(self, action: Action) -> None:
        self.actions.append(action)
        self.trouble(action, "before")
        self._do(action)
        self.trouble(action, "after")

    def _do(self, action: Action) -> None:  # noqa: PLR0912, PLR0915 - an action, a case
        match action.verb:
            case Verb.TAKE_EPOCH:
                self.has_epoch = True
            case Verb.GIVE_EPOCH:
                assert self.down(), "the epoch is given away while something runs"
                self.has_epoch = False
            case Verb.ARM_WATCHDOG:
                self.armed = True
            case Verb.DISARM_WATCHDOG:
                assert not self.primary
                self.armed = False
            case Verb.PROMOTE:
                assert self.has_epoch
                self.primary = True
            case Verb.CHECK_ROLE:
                if not self.primary:
                    raise StepFailed("not Primary")
            case Verb.DEMOTE:
                if self.mounted:
                    raise StepFailed("the device is in use")
                self.primary = False
            case Verb.CHECK_FILE_SYSTEM:
                assert self.primary and not self.mounted
                self.clean = True
            case Verb.MOUNT:
                assert self.primary
                if not self.mounted and not self.clean:
                    raise StepFailed("structure needs cleaning")
                self.mounted = True
            case (
                Verb.UNMOUNT
                | Verb.UNMOUNT_TERM
                | Verb.UNMOUNT_KILL
                | Verb.UNMOUNT_SHUTDOWN
                | Verb.UNMOUNT_ERRORS
            ):
                self._unmount(action.verb)
            case Verb.START_UNIT:
                assert self.mounted
                self.units.add(action.subject)
            case Verb.STOP_UNIT | Verb.KILL_UNIT:
                self.units.discard(action.subject)
            case Verb.CHECK_HEALTH:
                if self.units != set(self.service.units):
                    raise StepFailed("a unit is not active")
                self.checked = True
            case Verb.PROBE:
                self.probed = True
            case Verb.CLAIM:
                assert self.checked and self.probed, "claimed unasked"
                self.vips.add(action.subject)
            case Verb.WITHDRAW | Verb.WITHDRAW_BY_GUARD:
                self.vips.discard(action.subject)
            case Verb.FENCE_SELF:
                self.reset = True
            case Verb.ANNOUNCE | Verb.HOOK:
                pass

    def _unmount(self, verb: Verb) -> None:
        order = [
            Verb.UNMOUNT,
            Verb.UNMOUNT_TERM,
            Verb.UNMOUNT_KILL,
            Verb.UNMOUNT_SHUTDOWN,
            Verb.UNMOUNT_ERRORS,
        ]
        ends = {"polite": 1, "stubborn": 2, "hung": 3, "stuck": 4, "eternal": 5}
        if order.index(verb) >= 2:
            self.units.clear()
        left = {who for who in self.holders if ends[who] > order.index(verb)} | self.units
        if left:
            raise StepFailed(f"in use by {', '.join(sorted(left))}")
        self.holders = set()
        self.mounted = False
