"""A witness's life: lock, registers, port, socket; and the same backwards."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime

import structlog

from blockpair import __version__
from blockpair.arbiter.witness.clusters import Clusters
from blockpair.arbiter.witness.commits import Commits
from blockpair.arbiter.witness.methods import Methods
from blockpair.arbiter.witness.places import Places
from blockpair.arbiter.witness.register import DiskFailed, Register
from blockpair.arbiter.witness.server import WitnessServer
from blockpair.config.locations import check_socket_path
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.server import Server
from blockpair.service import logs
from blockpair.service.notify import give_signs_of_life, notify

_CONTACTS_SECONDS = 60.0


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def serve(where: Places, listen: Address) -> None:
    """Run the witness until SIGTERM or SIGINT. Raises `BlockpairError` when it cannot start or go on."""
    log = structlog.get_logger()
    await asyncio.to_thread(_prepare, where)
    with _locked(where):
        clusters = Clusters(where.clusters)
        for problem in await asyncio.to_thread(clusters.load):
            log.error("cluster.failed", text=problem.message, remedy=problem.remedy)
        register = await asyncio.to_thread(Register, where.database)
        try:
            await _run(where, listen, clusters, register)
        except DiskFailed as error:
            raise BlockpairError(
                ErrorKind.IO,
                f"the witness stops, because it cannot rely on its disk: {error}",
                "see the kernel's log about that disk, then start the witness again",
            ) from None
        finally:
            await asyncio.to_thread(register.close)
    log.info("witness.stopped")


async def _run(where: Places, listen: Address, clusters: Clusters, register: Register) -> None:
    log = structlog.get_logger()
    commits = Commits(register)
    port = WitnessServer(clusters, commits, utc_now)
    port.contacts = await asyncio.to_thread(register.contacts)
    server = Server(Methods(clusters, commits, port, utc_now).table(), logs.place("blockpair-witness"))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    committing = asyncio.create_task(commits.run())
    alive = asyncio.create_task(give_signs_of_life())
    try:
        await port.start(listen)
        await server.start(where.rpc_socket)
        served = [member.name for member in clusters.all()]
        log.info(
            "witness.ready", version=__version__, pid=os.getpid(), port=port.port, clusters=sorted(served)
        )
        notify(f"READY=1\nSTATUS={len(served)} clusters")
        noting = asyncio.create_task(_note(commits, port))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({committing, noting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        log.info("witness.stopping")
        notify("STOPPING=1")
        for task in (noting, stopping):
            task.cancel()
        if not committing.done():
            await commits.submit(port.contact())
    finally:
        await server.close()
        await port.close()
        alive.cancel()
        committing.cancel()
        await asyncio.wait({committing})
        await asyncio.to_thread(where.rpc_socket.unlink, missing_ok=True)
    if not committing.cancelled():
        # It ends by itself only because of the disk.
        committing.result()


async def _note(commits: Commits, port: WitnessServer) -> None:
    """Write down now and then when nodes were heard, for who asks after a restart."""
    while True:
        await asyncio.sleep(_CONTACTS_SECONDS)
        with contextlib.suppress(BlockpairError):
            await commits.submit(port.contact())


def _prepare(where: Places) -> None:
    check_socket_path(where.rpc_socket)
    try:
        where.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        where.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"{error.filename} cannot be made: {error.strerror}",
            "run the witness as root or by its systemd unit, or set BLOCKPAIR_DIR to a directory of yours",
        ) from None


@contextlib.contextmanager
def _locked(where: Places) -> Iterator[None]:
    try:
        descriptor = os.open(where.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"{where.lock_file} cannot be opened: {error.strerror}",
            "run the witness as root or by its systemd unit",
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BlockpairError(
            ErrorKind.IN_USE,
            f"a witness runs here already ({where.lock_file})",
            "one serves any number of clusters: `blockpair witness join`; or set another BLOCKPAIR_DIR",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
