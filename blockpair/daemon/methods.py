"""The daemon's RPC methods: parameters in, results out. What they do is in `manager` and `provision`."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from blockpair import __version__, bridge, bundles
from blockpair.config.resource import INTERNAL, OnIoError, PeerTable, Protocol, SplitBrainPolicy
from blockpair.daemon import provision
from blockpair.daemon.asker import asked_by
from blockpair.daemon.changes import change
from blockpair.daemon.creations import Creations
from blockpair.daemon.exports import Exports
from blockpair.daemon.manager import Manager
from blockpair.daemon.services import Services
from blockpair.daemon.switchover import Switched
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.history import read_history
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method
from blockpair.status.conditions import CONDITIONS
from blockpair.status.loss import BothLosses
from blockpair.status.plan import Plan
from blockpair.status.report import ResourceReport, StatusReport
from blockpair.verify import messages as verify


class NameParams(Struct, forbid_unknown_fields=True):
    """One resource."""

    name: str


class StatusParams(Struct, forbid_unknown_fields=True):
    """One resource, or all."""

    name: str | None = None


class CreateParams(Struct, forbid_unknown_fields=True):
    """What `create` needs; ``metadata`` null is a file in the state directory."""

    name: str
    device: str
    peers: list[PeerTable]
    metadata: str | None = None
    block_size: str = "4K"
    protocol: Protocol = "C"
    split_brain: SplitBrainPolicy = "discard-zero-changes"
    priority: int = 0
    on_io_error: OnIoError = "detach"
    force: bool = False


class PeerParams(Struct, forbid_unknown_fields=True):
    """One resource and one of its peers, or all of them."""

    name: str
    peer: str | None = None


class PromoteParams(Struct, forbid_unknown_fields=True):
    """``force``: even where writes that only the peer has would be lost or the data would fork;
    ``without_service``: what follows the data stays down.
    """

    name: str
    force: bool = False
    without_service: bool = False


class DemoteParams(Struct, forbid_unknown_fields=True):
    """``kill_users``: who holds the mount is killed."""

    name: str
    kill_users: bool = False


class SwitchoverParams(Struct, forbid_unknown_fields=True):
    """``to``: the node that is to be Primary; null: the one that is not."""

    name: str
    to: str | None = None
    kill_users: bool = False


class SyncParams(Struct, forbid_unknown_fields=True):
    """``source``: the node whose copy is kept."""

    name: str
    source: str


class ResolveParams(Struct, forbid_unknown_fields=True):
    """``victim``: the node whose changes go; ``bundle``: they are saved before."""

    name: str
    victim: str
    bundle: bool = True


class WaitParams(Struct, forbid_unknown_fields=True):
    """Until all of ``until`` hold, or ``timeout_seconds`` have passed (null: for ever)."""

    name: str
    until: list[str]
    timeout_seconds: float | None = None


class FaultParams(Struct, forbid_unknown_fields=True):
    """``what`` shall go wrong in the engine; for tests."""

    name: str
    what: str


class MetadataParams(Struct, forbid_unknown_fields=True):
    """``dump``: with the runs of the bitmaps."""

    name: str
    dump: bool = False


class BundlesParams(Struct, forbid_unknown_fields=True):
    """The bundles of one resource, or all."""

    resource: str | None = None


class HoldParams(Struct, forbid_unknown_fields=True):
    """The socket of an export that was just started."""

    socket: str


class HistoryParams(Struct, forbid_unknown_fields=True):
    """The newest ``limit`` entries."""

    name: str
    limit: int = 50


_read = partial(Method, read_only=True)


class Methods:
    """The table of methods over one `Manager`."""

    def __init__(self, manager: Manager, log_place: str, creations: Creations, services: Services) -> None:
        self._manager = manager
        self._services = services
        self._creations = creations
        self._exports = Exports(manager)
        self._log_place = log_place

    def table(self) -> dict[str, Method]:
        """Every method by its name."""
        faults = {"resource.fault": change("resource.fault", FaultParams, self._fault)}
        return {
            **(faults if os.environ.get("BLOCKPAIR_FAULTS") == "1" else {}),
            "daemon.info": _read(NoParams, self._info),
            "resource.status": _read(StatusParams, self._status),
            "resource.wait": _read(WaitParams, self._wait, interruptible=True),
            "resource.metadata": _read(MetadataParams, self._metadata),
            "bundle.list": _read(BundlesParams, self._bundles),
            "bundle.find": _read(NameParams, self._bundle_find),
            "bundle.show": _read(NameParams, self._bundle_show),
            "bundle.export": change("bundle.export", NameParams, self._exports_start),
            "bundle.hold": Method(HoldParams, self._exports_hold, interruptible=True),
            "bundle.restore": change("bundle.restore", NameParams, self._bundle_restore),
            "bundle.delete": change("bundle.delete", NameParams, self._bundle_delete),
            # Names of files on the disk: not the group's to know.
            "resource.loss": Method(PeerParams, self._loss),
            "resource.plan": _read(PeerParams, self._plan),
            "resource.history": _read(HistoryParams, self._history),
            "resource.create": change("resource.create", CreateParams, self._create),
            "resource.delete": change("resource.delete", NameParams, self._delete),
            "resource.up": change("resource.up", NameParams, self._up),
            "resource.down": change("resource.down", NameParams, self._down),
            "resource.connect": change("resource.connect", PeerParams, self._connect),
            "resource.disconnect": change("resource.disconnect", PeerParams, self._disconnect),
            "resource.promote": change("resource.promote", PromoteParams, self._promote),
            "resource.demote": change("resource.demote", DemoteParams, self._demote),
            "resource.switchover": change("resource.switchover", SwitchoverParams, self._switchover),
            "resource.warm_up": change("resource.warm_up", NameParams, self._warm_up),
            "resource.sync": change("resource.sync", SyncParams, self._sync),
            "resource.resolve": change("resource.resolve", ResolveParams, self._resolve),
            verify.REPORT: _read(verify.ReportParams, self._verify_report),
            verify.START: change(verify.START, verify.StartParams, self._verify_start),
            verify.STOP: change(verify.STOP, verify.StopParams, self._verify_stop),
            verify.REPAIR: change(verify.REPAIR, verify.FindingsParams, self._verify_repair),
            verify.WAIVE: change(verify.WAIVE, verify.FindingsParams, self._verify_waive),
        }

    async def _info(self, caller: Caller, _: NoParams) -> Any:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "node": self._manager.node.name,
            "config": str(self._manager.places.config),
            "log": self._log_place,
        }

    async def _status(self, caller: Caller, params: StatusParams) -> StatusReport | ResourceReport:
        if params.name is None:
            return await self._manager.status()
        return await self._manager.report(params.name)

    async def _wait(self, caller: Caller, params: WaitParams) -> ResourceReport:
        unknown = [condition for condition in params.until if condition not in CONDITIONS]
        if unknown or not params.until:
            raise BlockpairError(
                ErrorKind.USAGE,
                f"{unknown[0]!r} is nothing to wait for" if unknown else "there is nothing to wait for",
                "the states are: " + ", ".join(sorted(CONDITIONS)),
            )
        return await self._manager.wait(params.name, params.until, params.timeout_seconds)

    async def _metadata(self, caller: Caller, params: MetadataParams) -> Any:
        config = self._manager.config(params.name)
        read = await asyncio.to_thread(bridge.read_metadata, config, dump=params.dump)
        return {"up": self._manager.is_up(params.name), "metadata": read}

    async def _bundles(self, caller: Caller, params: BundlesParams) -> list[bundles.Entry]:
        found = await asyncio.to_thread(bundles.listing, self._manager.places, params.resource)
        if not found and params.resource is not None:
            # A resource that does not exist is told apart from one without bundles.
            self._manager.config(params.resource)
        return found

    async def _bundle_find(self, caller: Caller, params: NameParams) -> Any:
        return {"path": str(await self._find(caller, params.name))}

    async def _find(self, caller: Caller, which: str) -> Path:
        """A bundle by name or resource; for root by its path too: others would learn what files there are."""
        if "/" in which and not caller.administers:
            raise BlockpairError(
                ErrorKind.NOT_PERMITTED,
                f"user {caller.uid} may not have the daemon open {which}",
                "name the bundle as `blockpair bundle list` does, or run it as root",
            )
        return await asyncio.to_thread(bundles.find, self._manager.places, which)

    async def _bundle_show(self, caller: Caller, params: NameParams) -> bundles.BundleFile:
        path = await self._find(caller, params.name)
        return await asyncio.to_thread(bundles.read, path, verify=True)

    async def _exports_start(self, params: NameParams) -> bundles.Exported:
        return await self._exports.start(params.name)

    async def _exports_hold(self, caller: Caller, params: HoldParams) -> None:
        await self._exports.hold(params.socket)

    async def _bundle_restore(self, params: NameParams) -> Any:
        path = await asyncio.to_thread(bundles.find, self._manager.places, params.name)
        return {"path": str(path), "bytes": await self._manager.restore(path)}

    async def _bundle_delete(self, params: NameParams) -> Any:
        path = await asyncio.to_thread(bundles.find, self._manager.places, params.name)
        self._exports.check_unheld(path)
        return {"path": str(await asyncio.to_thread(bundles.delete, self._manager.places, str(path)))}

    async def _loss(self, caller: Caller, params: PeerParams) -> BothLosses:
        return await self._manager.losses(params.name, params.peer)

    async def _plan(self, caller: Caller, params: PeerParams) -> Plan:
        return await self._manager.plan(params.name, params.peer)

    async def _resolve(self, params: ResolveParams) -> ResourceReport:
        await self._manager.resolve(params.name, params.victim, bundle=params.bundle)
        return await self._manager.report(params.name)

    async def _verify_report(self, caller: Caller, params: verify.ReportParams) -> verify.VerifyReport:
        return await self._manager.verify_report(params.name)

    async def _verify_start(self, params: verify.StartParams) -> verify.VerifyReport:
        async with self._manager.verifying(params.name) as (verifying, status):
            await verifying.start(
                status, offset=params.offset, length=params.length, max_rate=params.max_rate
            )
            return verifying.report()

    async def _verify_stop(self, params: verify.StopParams) -> verify.VerifyReport:
        async with self._manager.verifying(params.name) as (verifying, _):
            await verifying.stop()
            return verifying.report()

    async def _verify_repair(self, params: verify.FindingsParams) -> verify.VerifyReport:
        # Without the lock: to save a bundle may take long, and a `down` ends it.
        runtime = self._manager.runtime(params.name)
        status = await asyncio.to_thread(runtime.engine().status)
        await runtime.verifying.repair(status, params.offsets)
        return runtime.verifying.report()

    async def _verify_waive(self, params: verify.FindingsParams) -> verify.VerifyReport:
        async with self._manager.verifying(params.name) as (verifying, _):
            await verifying.waive(params.offsets)
            return verifying.report()

    async def _history(self, caller: Caller, params: HistoryParams) -> Any:
        file = self._manager.places.history_file(params.name)
        if not file.exists():
            # Nothing was recorded of a resource that is there; of any other, say that there is none.
            self._manager.config(params.name)
        try:
            entries = await asyncio.to_thread(read_history, file, max(1, params.limit))
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO, f"{file} cannot be read: {error.strerror}", "see what is wrong with that disk"
            ) from None
        return {"name": params.name, "entries": entries}

    async def _create(self, params: CreateParams) -> Any:
        configuration = self._manager.configuration
        if configuration is not None and configuration.content is not None:
            raise BlockpairError(
                ErrorKind.USAGE,
                f"{self._manager.node.name} is in the cluster {configuration.content.cluster.name}, whose "
                "resources are made on both nodes at once",
                f"blockpair create {params.name} --on NODE=DEVICE,NODE=DEVICE",
            )
        config, created = await provision.create(
            self._manager,
            params.name,
            device=params.device,
            metadata=params.metadata,
            peers=params.peers,
            block_size=params.block_size,
            protocol=params.protocol,
            split_brain=params.split_brain,
            priority=params.priority,
            on_io_error=params.on_io_error,
            force=params.force,
        )
        return {
            "name": config.name,
            "file": str(self._manager.places.resource_file(config.name)),
            "device": str(config.device),
            "metadata": INTERNAL if config.metadata is None else str(config.metadata),
            "data_size_bytes": created.data_size_bytes,
            "block_size_bytes": created.block_size_bytes,
            "metadata_bytes": created.metadata_bytes,
            "device_size_bytes": created.device_size_bytes,
            "failover": self._manager.failover(config.name, config.protocol),
        }

    async def _delete(self, params: NameParams) -> Any:
        configuration = self._manager.configuration
        if configuration is not None and configuration.shares(params.name):
            changed, done = await self._creations.delete(params.name)
            return {"done": done, "pending": changed.pending}
        return {"done": await provision.delete(self._manager, params.name)}

    async def _up(self, params: NameParams) -> ResourceReport:
        await self._manager.up(params.name)
        return await self._manager.report(params.name)

    async def _down(self, params: NameParams) -> ResourceReport:
        await self._services.down(params.name)
        return await self._manager.report(params.name)

    async def _connect(self, params: PeerParams) -> ResourceReport:
        await self._manager.connect(params.name, params.peer, connect=True)
        return await self._manager.report(params.name)

    async def _disconnect(self, params: PeerParams) -> ResourceReport:
        await self._manager.connect(params.name, params.peer, connect=False)
        return await self._manager.report(params.name)

    async def _promote(self, params: PromoteParams) -> ResourceReport:
        await self._services.promote(params.name, force=params.force, without_service=params.without_service)
        return await self._manager.report(params.name)

    async def _demote(self, params: DemoteParams) -> ResourceReport:
        await self._services.demote(params.name, kill_users=params.kill_users)
        return await self._manager.report(params.name)

    async def _switchover(self, params: SwitchoverParams) -> Switched:
        return await self._services.switchover(
            params.name, to=params.to, why=asked_by.get(), kill_users=params.kill_users
        )

    async def _warm_up(self, params: NameParams) -> ResourceReport:
        await self._manager.warm_up(params.name)
        return await self._manager.report(params.name)

    async def _sync(self, params: SyncParams) -> ResourceReport:
        await self._manager.sync(params.name, params.source)
        return await self._manager.report(params.name)

    async def _fault(self, params: FaultParams) -> None:
        await self._manager.runtime(params.name).call("fault", what=params.what)
