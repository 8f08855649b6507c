"""What a service needs of its resource, over the running engine (`blockpair.failover.machine.Replica`)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from blockpair.daemon.manager import Manager
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover import follow
from blockpair.failover.plan import Role, Watchdog
from blockpair.status.engine import EngineStatus

UNLEASED_SECONDS = 5.0
"""For which a node may have its addresses that needs no other's word: what a hanging daemon may keep them."""
STOOD_IN_SECONDS = 2.0
"""The same without a disk of its own. Whoever stands in for it gives no word, and may take over as soon as it
misses this node; it asks the network first whether somebody has the address.
"""
_SERVING_SECONDS = 5.0
_POLL_SECONDS = 0.02
# After its time is up, what a demotion may still take before the next means is tried: errors from the device,
# which end most of what it may hang on, come sooner (`Limits.kill`).
_HANGING_SECONDS = 15.0


def role_of(status: EngineStatus | None) -> follow.Role:
    """What the engine is, as far as a service goes by it."""
    if status is None or status.state != "running":
        return follow.Role.AWAY
    if status.resuming:
        return follow.Role.RESUMING
    return follow.Role.SERVING if status.role == "Primary" else follow.Role.AWAY


def may_write_seconds(status: EngineStatus | None) -> float:
    """Seconds for which this node may serve, as far as ``status`` knows; 0: it may not."""
    if status is None or role_of(status) is not follow.Role.SERVING:
        return 0.0
    if status.disk == "Diskless" and status.served_by is None:
        return 0.0
    state = status.arbitration
    if state is None:
        return UNLEASED_SECONDS
    if state.suspended == "all":
        return 0.0
    if status.disk == "Diskless":
        return STOOD_IN_SECONDS
    found = state.configuration
    alone = found is not None and not state.joint and found.in_sync == [status.node]
    return UNLEASED_SECONDS if alone else state.lease_seconds or 0.0


def is_primary(status: EngineStatus | None, peer: str) -> bool:
    """Whether ``peer`` says at this moment that it is Primary."""
    peers = [] if status is None else status.peers
    return any((one.name, one.connection, one.role) == (peer, "Connected", "Primary") for one in peers)


def unready(status: EngineStatus | None, peer: str) -> str | None:
    """Why ``peer`` may not go on with all that this node has; None: it may."""
    found = next((one for one in status.peers if one.name == peer), None) if status is not None else None
    if status is None or found is None:
        return f"{peer} is not known here"
    if (found.connection, found.replication) != ("Connected", "Established"):
        return f"{peer} is {found.connection}/{found.replication}, not connected and in step"
    # What is marked here says nothing where this node has no data that the peer could lack.
    marked = found.out_of_sync_bytes or found.suspect_bytes or found.full_sync
    if found.disk != "UpToDate" or (marked and status.disk != "Diskless"):
        return f"{peer} is not in sync"
    state = status.arbitration
    if state is not None and state.configuration is not None and peer not in state.configuration.in_sync:
        return f"the arbiter has not been told yet that {peer} is in sync"
    return None


class EngineReplica:
    """That of the resource ``name``. ``refusal`` is the first error of the engine's since somebody last set
    it to None.
    """

    def __init__(self, name: str, manager: Manager, watchdog: NodeWatchdog) -> None:
        self._name = name
        self._manager = manager
        self._watchdog = watchdog
        self.refusal: BlockpairError | None = None

    async def status(self) -> EngineStatus | None:
        """What the engine says; None where there is none, or none that answers."""
        try:
            return await self._manager.runtime(self._name).status()
        except BlockpairError:
            return None

    async def role(self) -> Role:
        serves = role_of(await self.status()) is follow.Role.SERVING
        return Role.PRIMARY if serves else Role.SECONDARY

    async def has_epoch(self) -> bool:
        status = await self.status()
        return status is None or status.arbitration is None or role_of(status) is follow.Role.SERVING

    async def watchdog(self) -> Watchdog:
        return self._watchdog.state()

    async def device(self) -> Path | None:
        try:
            path = self._manager.runtime(self._name).device_status().path
        except BlockpairError:
            return None
        return None if path is None else Path(path)

    async def take_epoch(self) -> None:
        """The engine is Primary in the epoch that it takes; `promote` is what offers its device."""
        await self._to_its_end(self._manager.runtime(self._name).become_primary(force=False))

    async def give_epoch(self) -> None:
        """See that the peer may take it: it has all of the data, and is there."""
        while await self._unconfirmed():
            await self._change()

    async def _unconfirmed(self) -> bool:
        """Whether something is on its way to a peer. Raises `BlockpairError` where one may not take over."""
        status = await self.status()
        # Without a disk everything went to the peer as it came, and a Secondary without one connects to
        # nobody.
        peers = [] if status is None or status.disk == "Diskless" else status.peers
        for peer in peers:
            if (why := unready(status, peer.name)) is not None:
                raise BlockpairError(ErrorKind.UNSAFE, why, "wait until it is connected and in sync")
        return any(peer.unacked for peer in peers)

    async def promote(self) -> None:
        await self._to_its_end(self._manager.promote(self._name, force=False))
        # What is mounted at once reads at once, and the peer's word takes a moment.
        deadline = time.monotonic() + _SERVING_SECONDS
        while not may_write_seconds(await self.status()) and time.monotonic() < deadline:
            await self._change()

    async def offer(self) -> None:
        """Offer the device, where this node became Primary by itself. Raises `BlockpairError`."""
        await self._to_its_end(self._manager.offer(self._name))

    async def _change(self) -> None:
        """Wait for an event of the engine's, or a moment: not everything that changes is one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._manager.runtime(self._name).changed.wait()

    async def demote(self) -> None:
        """One that hangs ends at some time, or never; there are other means then."""
        await self._to_its_end(self._manager.demote(self._name), _HANGING_SECONDS)

    async def arm_watchdog(self, armed: bool) -> None:
        """The engines do, before they are Primary, and when the last of them is no more."""

    async def fail_io(self) -> None:
        await self._manager.runtime(self._name).fail_io()

    async def fence_self(self) -> None:
        await asyncio.to_thread(self._watchdog.reset_machine)

    async def addresses_until(self) -> float:
        asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        # A status may be of any age, and says only that there is nothing to serve; the time is the engine's.
        status = await self.status()
        seconds = may_write_seconds(status)
        if status is None or not seconds:
            return 0.0
        if status.disk == "Diskless":
            return asked + seconds
        until = self._manager.runtime(self._name).serves_until()
        until = min(until, asked + UNLEASED_SECONDS) if math.isinf(until) else until
        return until if until > asked else 0.0

    async def _to_its_end(self, work: Coroutine[Any, Any, Any], patience: float | None = None) -> None:
        """A command of the engine cannot be taken back: be done no sooner than it, or, cancelled, than
        ``patience`` seconds after that. Keeps what it refused.
        """
        running = asyncio.ensure_future(work)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running}, timeout=patience)
            # Nobody asks any more how it ended.
            running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            raise
        except BlockpairError as error:
            self.refusal = self.refusal or error
            raise
