"""The daemon's life: lock, state, listener, resources, socket; and the same backwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import structlog

from blockpair import __version__, _engine, bridge
from blockpair.config.files import remove_unfinished
from blockpair.config.locations import Locations, check_socket_path
from blockpair.config.node import NodeConfig
from blockpair.daemon.arbiters import build_arbiter
from blockpair.daemon.arrays import watch_arrays
from blockpair.daemon.audits import Audits
from blockpair.daemon.care_world import look_after
from blockpair.daemon.checks import Checks
from blockpair.daemon.desired import DaemonLock, DesiredState, boot_id
from blockpair.daemon.event_methods import EventMethods
from blockpair.daemon.health import watch_health
from blockpair.daemon.judges import Judges
from blockpair.daemon.late import Late
from blockpair.daemon.manager import Manager
from blockpair.daemon.method_list import all_methods
from blockpair.daemon.methods import Methods
from blockpair.daemon.metrics import Metrics
from blockpair.daemon.node_file import NodeFile
from blockpair.daemon.part import Part
from blockpair.daemon.recording import recording
from blockpair.daemon.services import Services
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.events.stream import Stream
from blockpair.rpc.server import MAX_CONNECTIONS, Server, give_to_group
from blockpair.service import logs
from blockpair.service.notify import give_signs_of_life, notify

# Beside one for each caller, who has one call under way: the supervision, starts and stops.
_SPARE_THREADS = 16


def prepare(places: Locations) -> None:
    """Make the node's directories. Raises `BlockpairError`."""
    check_socket_path(places.rpc_socket)
    try:
        places.resources.mkdir(parents=True, exist_ok=True)
        for directory in (places.state / "metadata", places.run / "primary"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        exports = places.nbd_socket("x").parent
        exports.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Sockets made in it belong to the directory's group. Who may use them reads and writes the disk:
        # that is for the group of block devices, not for those who may look at the daemon's status.
        give_to_group(exports, "disk")
        exports.chmod(0o2750)
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"{error.filename} cannot be made: {error.strerror}",
            "run blockpaird as root, or set BLOCKPAIR_DIR to a directory that you may write",
        ) from None


def take_over(places: Locations) -> DesiredState:
    """What the daemon before left; with the lock held. Raises `BlockpairError`."""
    clear(places)
    desired = DesiredState(places.desired_file)
    desired.load()
    return desired


def clear(places: Locations) -> None:
    """Remove what a daemon killed in the middle of writing left; with its lock held. Raises
    `BlockpairError`.
    """
    try:
        for file in remove_unfinished(places.config, places.state):
            structlog.get_logger().info("file.unfinished-removed", file=str(file))
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"{error.filename} cannot be removed: {error.strerror}",
            "run blockpaird as root, or set BLOCKPAIR_DIR to a directory that you may write",
        ) from None


def tell(listener: _engine.Listener) -> None:
    """Log what the replication port refused before it was known for which resource it was."""
    log = structlog.get_logger()
    for notice in bridge.listener_events(listener):
        log.warning(notice.name, text=notice.text)


def told_to_stop() -> asyncio.Event:
    """Set from SIGTERM or SIGINT on; in the event loop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _take_no_part(part: Part, *tasks: asyncio.Task[None]) -> None:
    """Leave the cluster's calls, and end what runs beside them."""
    for task in tasks:
        task.cancel()
    await part.cluster.stop()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def serve(node: NodeConfig, places: Locations) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises `BlockpairError` when it cannot start."""
    # A command on a disk that hangs keeps its thread; the status of everything else needs one all the same.
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(MAX_CONNECTIONS + _SPARE_THREADS, "bp-work")
    )
    await asyncio.to_thread(prepare, places)
    lock = await asyncio.to_thread(DaemonLock, places.lock_file)
    try:
        desired = await asyncio.to_thread(take_over, places)
        async with recording(node, places) as stream:
            await _serve(node, places, desired, stream)
    finally:
        lock.release()
    structlog.get_logger().info("daemon.stopped")


async def _serve(node: NodeConfig, places: Locations, desired: DesiredState, stream: Stream) -> None:
    log = structlog.get_logger()
    listener = await asyncio.to_thread(bridge.listen, node.listen)
    # To the very end: a stop that hangs is told from one that takes its time.
    alive = asyncio.create_task(give_signs_of_life())
    try:
        manager: Manager
        judges = Judges(lambda content: build_arbiter(content, node=node.name, places=places, pair=manager))
        watchdog = NodeWatchdog(node.watchdog)
        manager = Manager(node, places, desired, boot_id(), listener, judges=judges, watchdog=watchdog)
        part = Part(node, places, listener, manager)
        services = Services(manager, watchdog, part.cluster.methods)
        health = watch_health(node, manager, part.cluster)
        checks = Checks(manager, part.cluster, part.look)
        audits = Audits(manager, part.cluster, checks)
        care = await look_after(
            services, node, manager=manager, cluster=part.cluster, health=health, stream=stream
        )
        arrays = watch_arrays(node, places, manager)
        own = Methods(manager, logs.place(), part.creations, services)
        events = EventMethods(node, places, stream)
        tables = (own.table(), events.table(), *(each.methods() for each in (part, health, checks, audits)))
        server = Server(all_methods(tables, part.cluster.methods), logs.place())
        stop = told_to_stop()
        asyncio.get_running_loop().add_reader(listener.event_fd(), tell, listener)
        # Before the resources: they connect by what it trusts.
        await part.start()
        await manager.start_all()
        await server.start(places.rpc_socket)
        log.info(
            "daemon.ready",
            version=__version__,
            node=node.name,
            pid=os.getpid(),
            port=listener.port,
            socket=str(places.rpc_socket),
        )
        notify(f"READY=1\nSTATUS=node {node.name}, {len(manager.names())} resources")
        supervisor = asyncio.create_task(manager.supervise())
        metrics = Metrics(node, manager, part.cluster, watchdog, health=health, arrays=arrays, audits=audits)
        node_file = NodeFile(places.node_file, node, (health.adopt, care.adopt))
        manager.reports.node_advice = lambda: node_file.advice
        tasks = (part, health, node_file, care, metrics, arrays, Late(manager))
        beside = [asyncio.create_task(each.run()) for each in tasks]
        services.start()
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({supervisor, stopping}, return_when=asyncio.FIRST_COMPLETED)
        log.info("daemon.stopping")
        notify("STOPPING=1")
        await services.end()
        await server.close()
        try:
            await _take_no_part(part, supervisor, *beside)
        finally:
            await manager.stop_all()
            await asyncio.to_thread(places.rpc_socket.unlink, missing_ok=True)
    finally:
        alive.cancel()
        asyncio.get_running_loop().remove_reader(listener.event_fd())
        await asyncio.to_thread(listener.close)
