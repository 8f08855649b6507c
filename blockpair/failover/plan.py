"""From what is and what is wished to an ordered list of steps. Pure: nothing here touches the system.

Up: epoch, watchdog, promote, check of the file system, mount, units, health check, probe, addresses,
announcement, hook. Down is the mirror: the same steps in reverse, with do and undo exchanged. So two rules
hold after every step, whichever way it goes and wherever it stops: no address without the mount, and no mount
without being Primary (I9).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from blockpair.config.service import Service


class Wish(StrEnum):
    """What somebody wants of this node."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    """Orderly; what cannot be stopped is named, and the service is brought back."""
    HAND_OVER = "hand-over"
    """The old Primary's half of a switchover; a failure returns the service here."""
    TAKE_OVER = "take-over"
    """The new Primary's half of a switchover: the epoch was handed to it already."""
    FOLLOW = "follow"
    """The node is Primary already: its service comes up. It takes no role, which somebody may have taken away
    meanwhile, and fails without."""
    STOP = "stop"
    """The node may not write any more: down by every means, and nothing is brought back."""


UPWARD = (Wish.PROMOTE, Wish.TAKE_OVER, Wish.FOLLOW)
"""The wishes that bring a service up."""


class Role(StrEnum):
    """The node's role for the resource."""

    PRIMARY = "Primary"
    SECONDARY = "Secondary"


class FileSystemState(StrEnum):
    """What the file system's superblock says of how it was left."""

    CLEAN = "clean"
    JOURNAL = "journal"
    """Not unmounted; mounting it replays its journal."""
    UNCLEAN = "unclean"
    """A check must come before the mount."""
    UNKNOWN = "unknown"


class MountState(StrEnum):
    """What is mounted at the service's mount point."""

    ABSENT = "absent"
    MOUNTED = "mounted"
    FOREIGN = "foreign"
    """Something else than the resource's device."""
    STALE = "stale"
    """The device that the resource had in an earlier time as Primary: it gives only errors."""


class Watchdog(StrEnum):
    """The hardware watchdog that resets a node which cannot stop."""

    NONE = "none"
    DISARMED = "disarmed"
    ARMED = "armed"


@dataclass(frozen=True)
class State:
    """What was observed of this node and one resource."""

    role: Role = Role.SECONDARY
    has_epoch: bool = False
    """Whether the configuration names this node Primary (True where there is no arbiter to ask)."""
    watchdog: Watchdog = Watchdog.NONE
    file_system: FileSystemState = FileSystemState.UNKNOWN
    mount: MountState = MountState.ABSENT
    units: frozenset[str] = frozenset()
    """Those of the service that are active."""
    vips: frozenset[str] = frozenset()
    """Those of the service that this node holds."""
    unseen: tuple[str, ...] = ()
    """Why something could not be seen; it stands here as up then, for who stops everything."""


class Verb(StrEnum):
    """What an action does. Every one may be repeated: done already is done."""

    TAKE_EPOCH = "epoch.take"
    GIVE_EPOCH = "epoch.give"
    ARM_WATCHDOG = "watchdog.arm"
    DISARM_WATCHDOG = "watchdog.disarm"
    PROMOTE = "promote"
    CHECK_ROLE = "role"
    DEMOTE = "demote"
    CHECK_FILE_SYSTEM = "fsck"
    MOUNT = "mount"
    UNMOUNT = "unmount"
    UNMOUNT_TERM = "unmount.term"
    """Ask who holds it to end (SIGTERM), then unmount."""
    UNMOUNT_KILL = "unmount.kill"
    UNMOUNT_SHUTDOWN = "unmount.shutdown"
    """Shut the file system down, so that what hangs in it fails, then unmount."""
    UNMOUNT_ERRORS = "unmount.errors"
    """Let the device answer with errors, then unmount."""
    START_UNIT = "unit.start"
    STOP_UNIT = "unit.stop"
    KILL_UNIT = "unit.kill"
    CHECK_HEALTH = "health"
    PROBE = "vip.probe"
    CLAIM = "vip.claim"
    WITHDRAW = "vip.withdraw"
    WITHDRAW_BY_GUARD = "vip.guard"
    """Let the guard take it away."""
    ANNOUNCE = "vip.announce"
    HOOK = "hook"
    FENCE_SELF = "fence"
    """The end of the ladder: the watchdog resets this node."""


@dataclass(frozen=True)
class Action:
    """A verb and what it is done to: a unit, an address, a hook's moment; empty where the service says it
    all.
    """

    verb: Verb
    subject: str = ""


@dataclass(frozen=True)
class Rung:
    """An action and the seconds it may take."""

    action: Action
    timeout: float


Ladder = tuple[Rung, ...]
"""Tried in order until one succeeds; empty: there is nothing to do."""


class OnFailure(StrEnum):
    """What a step that failed on every rung means for the others."""

    UNDO = "undo"
    GO_ON = "go-on"
    HALT = "halt"
    """No further step is safe: the node is to be fenced."""


@dataclass(frozen=True)
class Step:
    """One step. ``check``: what tells that it is done; ``satisfied``: that it was when the plan was made."""

    name: str
    do: Ladder
    undo: Ladder
    check: str
    satisfied: bool = False
    on_failure: OnFailure = OnFailure.UNDO

    @property
    def timeout(self) -> float:
        """Seconds that doing it may take, all rungs together."""
        return sum(rung.timeout for rung in self.do)


@dataclass(frozen=True)
class Limits:
    """Seconds that steps outside the service's own may take."""

    epoch: float = 15.0
    watchdog: float = 5.0
    promote: float = 30.0
    demote: float = 30.0
    health: float = 30.0
    probe: float = 2.0
    vip: float = 5.0
    kill: float = 10.0


@dataclass(frozen=True)
class _Level:
    """A step with both directions, and whether it is up and down by what was observed."""

    name: str
    up: Ladder
    down: Ladder
    check: str
    is_up: bool
    is_down: bool


class Force(StrEnum):
    """How far a mount may be freed from who holds it."""

    NONE = "none"
    KILL_USERS = "kill-users"
    ALL = "all"


_OF_THE_ROLE = frozenset({"epoch", "watchdog", "promote"})


def plan(
    service: Service,
    state: State,
    wish: Wish,
    *,
    limits: Limits | None = None,
    kill_users: bool = False,
) -> tuple[Step, ...]:
    """The steps, in order, from ``state`` to what is wished; those that are done already stand there as
    ``satisfied``. ``kill_users``: of `Wish.DEMOTE` and `Wish.HAND_OVER`.
    """
    limits = limits or Limits()
    if wish in UPWARD:
        stale = () if _serving(service, state) else _stale(service, state, limits)
        if stale:
            state = replace(state, vips=frozenset())
        if state.mount is MountState.STALE:
            state = replace(state, units=frozenset(), mount=MountState.ABSENT)
        levels = _levels(service, state, limits, Force.KILL_USERS)
        if wish is Wish.FOLLOW:
            return stale + _following(levels, limits)
        # An epoch once taken is not given back: there may be nobody to give it to.
        levels = [replace(level, down=()) if level.name == "epoch" else level for level in levels]
        return stale + _ascent(
            level for level in levels if level.name != "epoch" or wish is not Wish.TAKE_OVER
        )
    if wish is Wish.STOP:
        return _stop(_levels(service, state, limits, Force.ALL))
    levels = _levels(service, state, limits, Force.KILL_USERS if kill_users else Force.NONE)
    if wish is Wish.DEMOTE:
        levels = [level for level in levels if level.name != "epoch"]
    return _descent(levels)


def _serving(service: Service, state: State) -> bool:
    """Whether an address may be here."""
    mounted = service.mount is None or state.mount is MountState.MOUNTED
    return state.role is Role.PRIMARY and mounted


def _stale(service: Service, state: State, limits: Limits) -> tuple[Step, ...]:
    """What was left where nothing is served goes before anything else is done: addresses, and a mount of
    another time as Primary with the units on it.
    """
    addresses = tuple(
        Step(
            f"stale {name}",
            (_rung(Verb.WITHDRAW, limits.vip, name),),
            (),
            f"this node no longer holds {name}",
        )
        for name in sorted(state.vips)
    )
    if state.mount is not MountState.STALE:
        return addresses
    times = service.timeouts
    stopped = tuple(
        Step(
            f"stale unit {unit}",
            (_rung(Verb.STOP_UNIT, times.stop, unit), _rung(Verb.KILL_UNIT, limits.kill, unit)),
            (),
            f"{unit} is no longer active",
        )
        for unit in reversed(service.units)
    )
    freed = (Verb.UNMOUNT_TERM, Verb.UNMOUNT_KILL, Verb.UNMOUNT_SHUTDOWN)
    unmounted = Step(
        "stale mount",
        (_rung(Verb.UNMOUNT, times.unmount), *(_rung(verb, limits.kill) for verb in freed)),
        (),
        f"nothing is mounted on {service.mount}",
    )
    return (*addresses, *stopped, unmounted)


def _following(levels: list[_Level], limits: Limits) -> tuple[Step, ...]:
    """The role is looked at, and neither taken nor given back."""
    role = next(level for level in levels if level.name == "promote")
    looked_at = replace(role, name="role", up=(_rung(Verb.CHECK_ROLE, limits.epoch),), down=())
    return _ascent([looked_at, *(level for level in levels if level.name not in _OF_THE_ROLE)])


def _ascent(levels: Iterable[_Level]) -> tuple[Step, ...]:
    return tuple(
        Step(level.name, level.up, level.down, level.check, satisfied=level.is_up) for level in levels
    )


def _descent(levels: list[_Level]) -> tuple[Step, ...]:
    return tuple(
        Step(
            level.name,
            level.down,
            level.up,
            f"it is no longer so that {level.check}",
            satisfied=level.is_down,
        )
        for level in reversed(levels)
    )


def _stop(levels: list[_Level]) -> tuple[Step, ...]:
    """Down without a way back. A unit or hook that fails stops nothing: who holds the mount is killed
    later.
    """
    found = []
    for step in _descent([level for level in levels if level.down and level.name != "epoch"]):
        harmless = step.name.startswith(("unit ", "hook "))
        found.append(replace(step, undo=(), on_failure=OnFailure.GO_ON if harmless else OnFailure.HALT))
    return tuple(found)


def _levels(service: Service, state: State, limits: Limits, force: Force) -> list[_Level]:
    """From the bottom up."""
    times = service.timeouts
    fence = (
        (_rung(Verb.FENCE_SELF, limits.kill),)
        if force is Force.ALL and state.watchdog is not Watchdog.NONE
        else ()
    )
    primary = state.role is Role.PRIMARY
    up = [
        _Level(
            "epoch",
            (_rung(Verb.TAKE_EPOCH, limits.epoch),),
            (_rung(Verb.GIVE_EPOCH, limits.epoch),),
            "the configuration names this node Primary",
            state.has_epoch,
            not state.has_epoch,
        )
    ]
    if state.watchdog is not Watchdog.NONE:
        armed = state.watchdog is Watchdog.ARMED
        up.append(
            _Level(
                "watchdog",
                (_rung(Verb.ARM_WATCHDOG, limits.watchdog),),
                (_rung(Verb.DISARM_WATCHDOG, limits.watchdog),),
                "the watchdog is armed",
                armed,
                not armed,
            )
        )
    up.append(
        _Level(
            "promote",
            (_rung(Verb.PROMOTE, limits.promote),),
            (_rung(Verb.DEMOTE, limits.demote), *fence),
            "the role is Primary",
            primary,
            not primary,
        )
    )
    if service.mount is not None:
        up += _mount_levels(service, state, limits, force=force, fence=fence)
    for unit in service.units:
        active = unit in state.units
        kill = () if force is Force.NONE else (_rung(Verb.KILL_UNIT, limits.kill, unit),)
        up.append(
            _Level(
                f"unit {unit}",
                (_rung(Verb.START_UNIT, times.start, unit),),
                (_rung(Verb.STOP_UNIT, times.stop, unit), *kill),
                f"{unit} is active",
                active,
                # One that is being started, or is to be, is not active, and would be.
                is_down=False,
            )
        )
    # Below the addresses: nobody waits for a hook with an address that the node may not have.
    if service.demoting_hook:
        hook = (_rung(Verb.HOOK, times.hook, "demoting"),)
        up.append(_Level("hook demoting", (), hook, "it ended with 0", is_up=True, is_down=False))
    if service.vips:
        up += _vip_levels(service, state, limits, fence)
    if service.promoted_hook:
        hook = (_rung(Verb.HOOK, times.hook, "promoted"),)
        up.append(_Level("hook promoted", hook, (), "it ended with 0", is_up=False, is_down=True))
    return up


def _mount_levels(
    service: Service, state: State, limits: Limits, *, force: Force, fence: Ladder
) -> list[_Level]:
    times = service.timeouts
    mounted = state.mount is MountState.MOUNTED
    down = [_rung(Verb.UNMOUNT, times.unmount)]
    if force is not Force.NONE:
        down += [_rung(Verb.UNMOUNT_TERM, limits.kill), _rung(Verb.UNMOUNT_KILL, limits.kill)]
    if force is Force.ALL:
        down += [_rung(Verb.UNMOUNT_SHUTDOWN, limits.kill), _rung(Verb.UNMOUNT_ERRORS, limits.kill), *fence]
    levels = []
    # A file system's state cannot be read before the node is Primary: then it is looked at when it is.
    if state.file_system in (FileSystemState.UNCLEAN, FileSystemState.UNKNOWN):
        levels.append(
            _Level(
                "fsck",
                (_rung(Verb.CHECK_FILE_SYSTEM, times.fsck),),
                (),
                f"the {service.file_system} file system may be mounted",
                mounted,
                is_down=True,
            )
        )
    levels.append(
        _Level(
            "mount",
            (_rung(Verb.MOUNT, times.mount),),
            tuple(down),
            f"the device is mounted on {service.mount}",
            mounted,
            # What somebody else mounted there is not ours to take away.
            is_down=state.mount in (MountState.ABSENT, MountState.FOREIGN),
        )
    )
    return levels


def _vip_levels(service: Service, state: State, limits: Limits, fence: Ladder) -> list[_Level]:
    wanted = {str(vip) for vip in service.vips}
    held = wanted <= state.vips
    levels = [
        _Level(
            "health",
            (_rung(Verb.CHECK_HEALTH, limits.health),),
            (),
            "the service answers",
            held,
            is_down=True,
        ),
        _Level(
            "probe", (_rung(Verb.PROBE, limits.probe),), (), "nobody else has an address", held, is_down=True
        ),
    ]
    for vip in service.vips:
        name = str(vip)
        levels.append(
            _Level(
                f"vip {name}",
                (_rung(Verb.CLAIM, limits.vip, name),),
                (
                    _rung(Verb.WITHDRAW, limits.vip, name),
                    _rung(Verb.WITHDRAW_BY_GUARD, limits.vip, name),
                    *fence,
                ),
                f"this node holds {name}",
                name in state.vips,
                name not in state.vips,
            )
        )
    announce = (_rung(Verb.ANNOUNCE, limits.vip),)
    levels.append(_Level("announce", announce, (), "neighbours were told", is_up=False, is_down=True))
    return levels


def _rung(verb: Verb, timeout: float, subject: str = "") -> Rung:
    return Rung(Action(verb, subject), timeout)


def describe(action: Action, service: Service) -> str:
    """A line for a person."""
    words = {
        Verb.TAKE_EPOCH: "take a new epoch",
        Verb.GIVE_EPOCH: "hand the epoch to the peer",
        Verb.ARM_WATCHDOG: "arm the watchdog",
        Verb.DISARM_WATCHDOG: "disarm the watchdog",
        Verb.PROMOTE: "become Primary",
        Verb.CHECK_ROLE: "see that this node is Primary",
        Verb.DEMOTE: "become Secondary",
        Verb.CHECK_FILE_SYSTEM: f"check the {service.file_system} file system, with safe repairs only",
        Verb.MOUNT: f"mount the device on {service.mount}",
        Verb.UNMOUNT: f"unmount {service.mount}",
        Verb.UNMOUNT_TERM: f"ask who uses {service.mount} to end (SIGTERM), and unmount",
        Verb.UNMOUNT_KILL: f"kill who uses {service.mount} (SIGKILL), and unmount",
        Verb.UNMOUNT_SHUTDOWN: "shut the file system down, and unmount",
        Verb.UNMOUNT_ERRORS: "let the device answer with errors, and unmount",
        Verb.START_UNIT: f"start {action.subject}",
        Verb.STOP_UNIT: f"stop {action.subject}",
        Verb.KILL_UNIT: f"kill {action.subject} (SIGKILL)",
        Verb.CHECK_HEALTH: "see that the units are still active",
        Verb.PROBE: "ask the network whether somebody has an address already",
        Verb.CLAIM: f"add {action.subject}",
        Verb.WITHDRAW: f"remove {action.subject}",
        Verb.WITHDRAW_BY_GUARD: f"let the guard remove {action.subject}",
        Verb.ANNOUNCE: "tell the neighbours (gratuitous ARP, unsolicited NA), again for 10 s",
        Verb.HOOK: f"run {service.promoted_hook if action.subject == 'promoted' else service.demoting_hook}",
        Verb.FENCE_SELF: "let the watchdog reset this node",
    }
    return words[action.verb]
