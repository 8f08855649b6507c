"""The real machine under the executor: every verb of a plan, done by the part that knows how."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from blockpair.config.files import write_atomically
from blockpair.config.service import Service, Vip
from blockpair.errors import BlockpairError
from blockpair.failover import arp, mount, units, vip
from blockpair.failover.commands import run
from blockpair.failover.executor import StepFailed
from blockpair.failover.frames import Claim
from blockpair.failover.guard import VipGuard
from blockpair.failover.plan import Action, FileSystemState, MountState, Role, State, Verb, Watchdog
from blockpair.status.service import NO_DEVICE

# What one look at a part of this machine may take; a device that hangs would take for ever.
_LOOK_SECONDS = 10.0
_Seen = TypeVar("_Seen")


class Replica(Protocol):
    """What a service needs of its resource on this node. Every method may be repeated, and raises
    `BlockpairError` where it did not come to what it says.
    """

    async def role(self) -> Role: ...

    async def has_epoch(self) -> bool: ...

    async def watchdog(self) -> Watchdog: ...

    async def device(self) -> Path | None:
        """The block device to mount, or None while there is none."""

    async def take_epoch(self) -> None: ...

    async def give_epoch(self) -> None: ...

    async def promote(self) -> None: ...

    async def demote(self) -> None: ...

    async def arm_watchdog(self, armed: bool) -> None: ...

    async def fail_io(self) -> None:
        """From now on the device answers with errors."""

    async def fence_self(self) -> None:
        """Reset this machine."""

    async def addresses_until(self) -> float:
        """Until when on CLOCK_BOOTTIME this node may have its addresses, as far as is known now: what is left
        of the lease; 0: it may not.
        """


class Machine:
    """One resource's service on this node. ``guard_file``: where the guard keeps its list; ``problem`` is
    told what went wrong in the background.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        replica: Replica,
        *,
        guard_file: Path,
        device_file: Path,
        problem: Callable[[str], None],
    ) -> None:
        self._name = name
        self._service = service
        self._replica = replica
        self._guard_file = guard_file
        self._device_file = device_file
        self._guard: VipGuard | None = None
        self._starting = asyncio.Lock()
        self._announcer = arp.Announcer(self._holds, problem)
        self._vips = {str(one): one for one in service.vips}

    async def warm_up(self) -> None:
        """Load and start what the way up will need, while nobody waits for it. Raises `OSError`,
        `vip.VipError`.
        """
        if self._service.vips:
            await asyncio.to_thread(vip.held, self._service.vips)
            await self._started_guard()

    async def observe(self) -> State:
        service, device = self._service, await self._mounted_device()
        unseen: list[str] = []

        async def look(what: str, looking: Awaitable[_Seen], otherwise: _Seen) -> _Seen:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    return await looking
            except (mount.MountError, units.UnitError, vip.VipError, OSError) as error:
                unseen.append(str(error) or f"{what}: no answer within {_LOOK_SECONDS:g} s")
                return otherwise

        mounted, left_as = MountState.ABSENT, FileSystemState.UNKNOWN
        if (point := service.mount) is not None:
            mounted = await look(
                f"what is mounted on {point}",
                asyncio.to_thread(mount.state, point, device),
                MountState.MOUNTED,
            )
            present = await self._replica.device()
            if mounted is MountState.MOUNTED and present is not None and present != device:
                mounted, device = MountState.STALE, present
            if device is not None and mounted is not MountState.MOUNTED:
                left_as = await look(
                    f"the file system on {device}",
                    asyncio.to_thread(mount.left_as, service, device),
                    FileSystemState.UNKNOWN,
                )
        active = await look("systemd", units.active(service.units), frozenset(service.units))
        vips = frozenset(str(one) for one in service.vips)
        if vips:
            vips = await look("the addresses", asyncio.to_thread(vip.held, service.vips), vips)
        return State(
            role=await self._replica.role(),
            has_epoch=await self._replica.has_epoch(),
            watchdog=await self._replica.watchdog(),
            file_system=left_as,
            mount=mounted,
            units=active,
            vips=vips,
            unseen=tuple(unseen),
        )

    async def perform(self, action: Action) -> None:
        try:
            await self._perform(action)
        except (mount.MountError, units.UnitError, vip.VipError) as error:
            raise StepFailed(str(error)) from None
        except BlockpairError as error:
            raise StepFailed(error.message) from None
        except OSError as error:
            about = f"{error.filename}: " if error.filename else ""
            raise StepFailed(f"{about}{error.strerror or error}") from None

    async def drop(self) -> None:
        """This node's addresses go, and the guard ends, also one that hangs. Raises `vip.VipError`."""
        for one in self._service.vips:
            self._announcer.end(one)
        guard, self._guard = self._guard, None
        try:
            await self._withdraw_all()
        finally:
            if guard is not None:
                await guard.close()
        # A claim may have been under way, and the guard been killed before it removed what came of that.
        await self._withdraw_all()

    async def _withdraw_all(self) -> None:
        """Those that are here. Raises `vip.VipError`, when all were tried."""
        here = await asyncio.to_thread(vip.held, self._service.vips) if self._service.vips else frozenset()
        problem: vip.VipError | None = None
        for one in self._service.vips:
            if str(one) in here:
                try:
                    await _to_its_end(vip.withdraw, one)
                except vip.VipError as error:
                    problem = problem or error
        if problem is not None:
            raise problem

    async def mounted(self) -> bool:
        """Whether the resource's device is where it should be mounted, as far as can be said. Raises
        `OSError`.
        """
        point, device = self._service.mount, await self._replica.device()
        if point is None or device is None:
            return True
        return await asyncio.to_thread(mount.state, point, device) is MountState.MOUNTED

    async def pet(self) -> bool:
        """Tell the guard how long the addresses may stay; often enough, for as long as any is here. False:
        they may not, or nobody guards them: they are to be dropped.
        """
        guard = self._guard
        until = await self._replica.addresses_until()
        if not until or guard is None or guard.has_ended:
            return False
        try:
            await guard.until(until)
        except BlockpairError:
            return False
        return True

    async def _perform(self, action: Action) -> None:  # noqa: PLR0912 - a verb, a case
        service, replica = self._service, self._replica
        match action.verb:
            case Verb.TAKE_EPOCH:
                await replica.take_epoch()
            case Verb.GIVE_EPOCH:
                await replica.give_epoch()
            case Verb.ARM_WATCHDOG | Verb.DISARM_WATCHDOG:
                await replica.arm_watchdog(action.verb is Verb.ARM_WATCHDOG)
            case Verb.PROMOTE:
                await replica.promote()
            case Verb.CHECK_ROLE:
                if await replica.role() is not Role.PRIMARY:
                    raise StepFailed("this node is not Primary any more")
            case Verb.DEMOTE:
                await replica.demote()
            case Verb.CHECK_FILE_SYSTEM:
                await mount.check(service, await self._device())
            case Verb.MOUNT:
                await self._mount()
            case Verb.UNMOUNT:
                await mount.unmount(service, await self._mounted_device())
            case Verb.UNMOUNT_TERM:
                await mount.end_users(service, await self._mounted_device(), signal.SIGTERM)
            case Verb.UNMOUNT_KILL:
                await mount.end_users(service, await self._mounted_device(), signal.SIGKILL)
            case Verb.UNMOUNT_SHUTDOWN:
                await mount.shut_down(service, await self._mounted_device())
            case Verb.UNMOUNT_ERRORS:
                await replica.fail_io()
                await mount.end_users(service, await self._mounted_device(), signal.SIGKILL)
            case Verb.START_UNIT:
                await units.start(action.subject)
            case Verb.STOP_UNIT:
                await units.stop(action.subject)
            case Verb.KILL_UNIT:
                await units.kill(action.subject)
            case Verb.CHECK_HEALTH:
                if missing := set(service.units) - await units.active(service.units):
                    raise StepFailed(f"not active any more: {', '.join(sorted(missing))}")
            case Verb.HOOK:
                await self._hook(action.subject)
            case Verb.FENCE_SELF:
                await replica.fence_self()
            case Verb.PROBE | Verb.CLAIM | Verb.WITHDRAW | Verb.WITHDRAW_BY_GUARD | Verb.ANNOUNCE:
                await self._address(action)

    async def _mount(self) -> None:
        device = await self._device()
        point = self._service.mount
        if point is not None and mount.state(point, device) is MountState.FOREIGN:
            raise StepFailed(f"something else is mounted on {point}")
        # Before the mount: a resource that has lost its role may have lost its device too, and what is
        # mounted of it must still be found.
        await asyncio.to_thread(write_atomically, self._device_file, f"{device}\n")
        await mount.mount(self._service, device)

    async def _mounted_device(self) -> Path | None:
        """The device that is mounted, also one that the resource has no more; else the one that may be."""
        point, kept = self._service.mount, None
        with contextlib.suppress(FileNotFoundError):
            kept = Path(self._device_file.read_text().strip())
        if point is not None and kept is not None and mount.state(point, kept) is MountState.MOUNTED:
            return kept
        return await self._replica.device() or kept

    async def _address(self, action: Action) -> None:
        match action.verb:
            case Verb.PROBE:
                await self._probe()
            case Verb.CLAIM:
                await self._claim(self._vips[action.subject])
            case Verb.WITHDRAW:
                self._announcer.end(self._vips[action.subject])
                await _to_its_end(vip.withdraw, self._vips[action.subject])
                if self._guard is not None:
                    await self._guard.drop(self._vips[action.subject])
            case Verb.WITHDRAW_BY_GUARD:
                await (await self._started_guard()).drop(self._vips[action.subject])
            case _:
                for one in self._service.vips:
                    self._announcer.begin(one)

    async def _probe(self) -> None:
        held = await asyncio.to_thread(vip.held, self._service.vips)
        wanted = [one for one in self._service.vips if str(one) not in held]
        claims = await asyncio.gather(*(_asked(one) for one in wanted))
        for one, claim in zip(wanted, claims, strict=True):
            if claim is not None:
                raise StepFailed(
                    f"{one.address} is in use on {one.interface}, by the host with MAC address {claim.mac}"
                )

    async def _claim(self, one: Vip) -> None:
        guard = await self._started_guard()
        # First the guard, then the address: there is no moment at which nobody would take it away.
        await guard.hold(one)
        # Only now: one that has just been started answers when it is up, and the node's word may be shorter.
        until = await self._replica.addresses_until()
        if not until:
            raise StepFailed(f"this node may not write at this moment, so it may not have {one.address}")
        await guard.until(until)
        guarded = False
        try:
            await _to_its_end(vip.claim, one)
            # It may have ended, or its time been up, while the address was added.
            until = await self._replica.addresses_until()
            if until and self._guard is guard and not guard.has_ended:
                await guard.until(until)
                guarded = True
        finally:
            if not guarded:
                await _to_its_end(vip.withdraw, one)
        if not guarded:
            raise StepFailed(f"nobody guards {one.address}, and without that this node may not have it")

    async def _started_guard(self) -> VipGuard:
        # A second one would wait for the first to end, and nobody would tell that one anything.
        async with self._starting:
            if self._guard is None or self._guard.has_ended:
                self._guard = await VipGuard.start(self._guard_file)
            return self._guard

    async def _hook(self, moment: str) -> None:
        program = self._service.promoted_hook if moment == "promoted" else self._service.demoting_hook
        done = await run(program, moment, self._name)
        if done.code:
            raise StepFailed(f"{program} {moment} {self._name} ended with {done.code}: {done.reason}")

    async def _device(self) -> Path:
        device = await self._replica.device()
        if device is None:
            raise StepFailed(NO_DEVICE)
        return device

    async def _holds(self, one: Vip) -> bool:
        return bool(await asyncio.to_thread(vip.held, [one]))


async def _asked(one: Vip) -> Claim | None:
    """Raises `StepFailed` that names an interface by which nothing can be asked."""
    try:
        return await arp.probe(one)
    except OSError as error:
        raise StepFailed(
            f"{one.interface} cannot be used for {one.address}: {error.strerror or error}"
        ) from None


async def _to_its_end(change: Callable[[Vip], None], one: Vip) -> None:
    """Run ``change`` in a thread, and be done no sooner than it, also when its time is up: an address that
    comes after its claim was given up would be nobody's.
    """
    changing = asyncio.ensure_future(asyncio.to_thread(change, one))
    try:
        await asyncio.shield(changing)
    except asyncio.CancelledError:
        await asyncio.gather(changing, return_exceptions=True)
        raise
