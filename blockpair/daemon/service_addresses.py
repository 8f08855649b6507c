"""The addresses of one resource's service on this node: kept for as long as it may have them, and no longer.

Nothing else is waited for: a mount that hangs, or a run that takes its time, must not cost a node the
addresses that it may have, nor leave it those that it may not.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import structlog

from blockpair.config.service import Vip
from blockpair.daemon.service_files import Definition, Places
from blockpair.daemon.service_replica import EngineReplica
from blockpair.failover import mount, units, vip
from blockpair.failover.machine import Machine

UNSEEN = (mount.MountError, units.UnitError, vip.VipError, OSError)
"""What observing this machine may raise."""
# Between two looks whether the mount and the addresses are still there.
_LOOK_SECONDS = 5.0
_PERIOD_SECONDS = 0.5


class Addresses:
    """``note``: severity, name and text of an event."""

    def __init__(
        self, name: str, replica: EngineReplica, places: Places, note: Callable[[str, str, str], None]
    ) -> None:
        self._name = name
        self._replica = replica
        self._places = places
        self._note = note
        self._log = structlog.get_logger().bind(resource=name)
        self._machine: tuple[Definition, Machine] | None = None
        self._changing = asyncio.Lock()
        self._warm: Definition | None = None
        self._looked = time.monotonic()
        self.held: frozenset[str] = frozenset()
        """Those that are here, as far as is known."""

    async def machine(self, definition: Definition) -> Machine:
        """The machine under a definition; what another one had is dropped."""
        async with self._changing:
            if self._machine is not None and self._machine[0] == definition:
                return self._machine[1]
            if self._machine is not None:
                await self._machine[1].drop()
            machine = Machine(
                self._name,
                definition.service,
                self._replica,
                guard_file=self._places.guard,
                device_file=self._places.device,
                problem=lambda text: self._note("warning", "service.announcement", text),
            )
            self._machine = definition, machine
            return machine

    async def warm_up(self, definition: Definition) -> None:
        """Load and start what a claim will need, once. Raises what is in `UNSEEN`."""
        if definition != self._warm:
            await (await self.machine(definition)).warm_up()
            self._warm = definition

    async def watch(self, changed: Callable[[], asyncio.Event], lease: Callable[[], float | None]) -> None:
        """Keep or drop them, until cancelled. ``changed``: set at the engine's next event; ``lease``: seconds
        for which this node is given its peer's word, where it needs one.
        """
        while True:
            event = changed()
            try:
                await self._keep()
            except Exception:
                # It must not end: nobody else takes the addresses away in time.
                self._log.exception("service.watch-failed")
            # `wait_for` of Python 3.11 forgets a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_PERIOD_SECONDS, (lease() or 60.0) / 6)):
                    await event.wait()

    async def _keep(self) -> None:
        if self._machine is None or not self.held or await self._machine[1].pet():
            return
        await self.drop()
        may = await self._replica.addresses_until() > 0
        why = "their guard has ended" if may else "this node may not write at this moment"
        self._note("warning", "service.addresses-dropped", f"the addresses are gone: {why}")

    async def look(self) -> bool:
        """Look now and then whether what was brought up is still there; False: the mount is not, and the
        addresses went with it. Raises what is in `UNSEEN`.
        """
        if self._machine is None or time.monotonic() - self._looked <= _LOOK_SECONDS:
            return True
        self._looked = time.monotonic()
        definition, machine = self._machine
        if not await machine.mounted():
            # An address leads to nothing without the mount.
            await self.drop()
            point = definition.service.mount
            self._note("error", "service.mount-lost", f"this resource is not mounted on {point} any more")
            return False
        if self.held:
            # A network manager that starts anew removes what it does not know.
            held = await asyncio.to_thread(vip.held, definition.service.vips)
            if lost := self.held - held:
                self.held = held
                self._note("warning", "service.addresses-lost", f"somebody removed {', '.join(sorted(lost))}")
        return True

    async def drop(self) -> None:
        """They go, whatever is under way."""
        if self._machine is not None:
            try:
                await self._machine[1].drop()
            except (vip.VipError, OSError) as error:
                # The guard has tried too, and a stop tries again.
                self._note("error", "service.address-stays", str(error))
        self.held, self._warm = frozenset(), None

    def stepped(self, address: str, *, came: bool) -> None:
        """A step of a run has added or removed one."""
        self.held = self.held | {address} if came else self.held - {address}

    async def seen(self, vips: Iterable[Vip]) -> None:
        """A run is over: see which are here. What cannot be seen leaves it as it was known."""
        wanted = list(vips)
        with contextlib.suppress(vip.VipError):
            self.held = await asyncio.to_thread(vip.held, wanted) if wanted else frozenset()
