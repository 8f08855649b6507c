"""The engine behind types: JSON text and exceptions on its side, structs and `BlockpairError` on ours.

Every function here may block; the daemon calls them on worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from blockpair import _engine
from blockpair.config.arbiter import MANUAL
from blockpair.config.names import Address
from blockpair.config.resource import ResourceConfig
from blockpair.errors import BlockpairError, ErrorKind, kind_of
from blockpair.status.engine import EngineStatus
from blockpair.status.loss import Marks
from blockpair.status.plan import Plan

_STATUS = msgspec.json.Decoder(EngineStatus)


class Notice(msgspec.Struct, frozen=True):
    """An event of the engine; ``time_ns`` is the wall clock's."""

    severity: str
    name: str
    text: str
    time_ns: int


class Shown(msgspec.Struct, frozen=True):
    """What comparing both copies has shown. ``what``: "proved" or "skipped" (it is marked, and was not
    compared), with ``offset`` and ``length`` in bytes; "found", with both checksums too; "ended", ``why``
    null where all of it was compared, ``passing`` where it may go on when that is over.
    """

    what: str
    offset: int = 0
    length: int = 0
    own: str = ""
    peer: str = ""
    why: str | None = None
    passing: bool = False


class Trust(msgspec.Struct, frozen=True):
    """What a node proves itself with, and whom it believes; PEM texts."""

    node: str
    ca_pem: str
    chain_pem: str
    key_pem: str

    def __repr__(self) -> str:
        # The key must not get into a log.
        return f"Trust(node={self.node!r})"


class Created(msgspec.Struct, frozen=True):
    """What `create_metadata` made, in bytes."""

    data_size_bytes: int
    block_size_bytes: int
    metadata_bytes: int
    device_size_bytes: int


class _Reported(msgspec.Struct):
    report: str | None = None


_SHOWN = msgspec.json.Decoder(list[Shown])
_NOTICES = msgspec.json.Decoder(list[Notice])


@contextmanager
def translated() -> Iterator[None]:
    """The engine's errors as ours."""
    try:
        yield
    except _engine.EngineError as error:
        raise BlockpairError(kind_of(error.kind), error.message, error.remedy) from None


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def listen(address: Address) -> _engine.Listener:
    """Accept replication connections. Raises `BlockpairError`."""
    with translated():
        return _engine.Listener(address.host, address.port)


def set_trust(listener: _engine.Listener, trust: Trust | None) -> None:
    """What new connections trust and show, at any time; None: no TLS. Raises `BlockpairError`, and then what
    was trusted before still is.
    """
    with translated():
        listener.set_trust(None if trust is None else _text(trust))


def listener_events(listener: _engine.Listener) -> list[Notice]:
    """The listener's events since the last call: connections that were refused before it was known for which
    resource they are. Its ``event_fd()`` is readable while there are any.
    """
    return _NOTICES.decode(listener.events())


def create_metadata(
    config: ResourceConfig, node: str, *, overwrite: bool, check_only: bool = False
) -> Created:
    """Write fresh metadata for a resource; with ``check_only``, look whether that could be done. Raises
    `BlockpairError`, and then nothing was changed.
    """
    spec = {
        "resource": config.name,
        "node": node,
        "device": str(config.device),
        "metadata": config.metadata_spec(),
        "block_size_bytes": config.block_size,
        "peers": [peer.name for peer in config.peers],
        "overwrite": overwrite,
        "check_only": check_only,
    }
    with translated():
        return msgspec.json.decode(_engine.create_metadata(_text(spec)), type=Created)


def erase_metadata(config: ResourceConfig, node: str) -> None:
    """Erase metadata that was just made and never had data. Raises `BlockpairError` for any other."""
    spec = {
        "resource": config.name,
        "node": node,
        "device": str(config.device),
        "metadata": config.metadata_spec(),
    }
    with translated():
        _engine.erase_metadata(_text(spec))


def read_metadata(config: ResourceConfig, *, dump: bool) -> Any:
    """The metadata on the disk as it is, without a lock; with ``dump``, the runs of its bitmaps too."""
    spec = _text({"device": str(config.device), "metadata": config.metadata_spec()})
    with translated():
        return msgspec.json.decode(_engine.dump_metadata(spec) if dump else _engine.inspect_metadata(spec))


def show_bundle(path: Path, *, verify: bool) -> str:
    """What a bundle says of itself, as JSON (`blockpair.bundles.BundleFile`). Raises `BlockpairError`."""
    with translated():
        return _engine.show_bundle(str(path), verify)


def restore_bundle(path: Path, socket: Path) -> int:
    """Write a bundle's blocks through a Primary's NBD socket; the bytes. Raises `BlockpairError`."""
    with translated():
        return _engine.restore_bundle(str(path), str(socket))


def copy_image(socket: Path, file: Path) -> int:
    """Copy what an NBD socket exports to an empty file; the bytes. Raises `BlockpairError`."""
    with translated():
        return _engine.copy_image(str(socket), str(file))


def _arbitration(config: ResourceConfig, answer: float) -> dict[str, Any] | None:
    """The times of arbitration in the engine's words; None where nobody is asked. ``answer``: seconds."""
    if config.arbiter == MANUAL:
        return None
    times = config.arbitration
    return {
        "beacon_ms": round(times.beacon * 1000),
        "lease_ms": round(times.lease * 1000),
        "patience_ms": round(times.patience * 1000),
        "drift_ppm": times.drift_ppm,
        "answer_ms": round(answer * 1000),
        "automatic": config.automatic,
    }


class Running:
    """A running engine."""

    def __init__(
        self,
        config: ResourceConfig,
        node: str,
        listener: _engine.Listener,
        *,
        socket: str,
        bundles: str,
        history: str,
        resume: bool,
        stale_generation: str | None,
        connect: bool,
        answer: float,
        watchdog: _engine.Watchdog | None = None,
    ) -> None:
        spec = {
            "resource": config.name,
            "node": node,
            "device": str(config.device),
            "metadata": config.metadata_spec(),
            "protocol": config.protocol,
            "policy": config.split_brain,
            "priority": config.priority,
            "on_io_error": config.on_io_error,
            "peers": [
                {
                    "name": peer.name,
                    "addresses": [{"host": at.host, "port": at.port} for at in peer.addresses],
                    "tls": config.tls,
                }
                for peer in config.peers
            ],
            "socket": socket,
            "history": history,
            "peer_timeout_ms": round(config.peer_timeout * 1000),
            "resume": resume,
            "stale_generation": stale_generation,
            "resume_wait_ms": round(config.resume_wait * 1000),
            "disk_driver": config.disk_driver,
            "warm_up_bytes": config.warm_up,
            "connect": connect,
            "bundles": bundles,
            "arbitration": _arbitration(config, answer),
        }
        with translated():
            self._engine = _engine.Engine(_text(spec), listener, watchdog)

    def call(self, command: str, *, by: str, **arguments: Any) -> None:
        """Carry out a command; ``by`` says in the history who asked. Raises `BlockpairError`."""
        with translated():
            self._engine.call(_text({"command": command, "by": by, **arguments}))

    def status(self) -> EngineStatus:
        """What it says of itself. Raises `BlockpairError`."""
        with translated():
            text = self._engine.status()
        try:
            return _STATUS.decode(text)
        except msgspec.DecodeError as error:
            raise BlockpairError(
                ErrorKind.INTERNAL,
                f"the engine's status is not as expected: {error}",
                "the installation is broken: install blockpair again",
            ) from None

    def consult(self, peer: str, *, report: bool) -> tuple[Plan, str | None]:
        """What a connect to ``peer`` would do now, and with ``report`` what its daemon says of its data, if
        it does. Asks the peer; takes seconds, with ``report`` minutes. Raises `BlockpairError`.
        """
        with translated():
            text = self._engine.consult(_text({"peer": peer, "report": report}))
        return msgspec.json.decode(text, type=Plan), msgspec.json.decode(text, type=_Reported).report

    def marks(self, peer: str) -> Marks:
        """What is marked for ``peer`` at this moment. Raises `BlockpairError`."""
        with translated():
            return msgspec.json.decode(self._engine.marks(peer), type=Marks)

    def reports_asked(self) -> list[str]:
        """The peers that wait for `report` since the last call."""
        return self._engine.reports_asked()

    def report(self, peer: str, text: str) -> None:
        """Tell a peer that waits. Raises `BlockpairError`."""
        with translated():
            self._engine.report(peer, text)

    def event_fd(self) -> int:
        """A descriptor that is readable while there are events."""
        return self._engine.event_fd()

    def events(self) -> list[Notice]:
        """The events since the last call."""
        return _NOTICES.decode(self._engine.events())

    def verified(self) -> list[Shown]:
        """What comparing both copies has shown since the last call, in order."""
        return _SHOWN.decode(self._engine.verified())

    def hold(self, offset: int, length: int) -> tuple[int, bytes]:
        """Hold blocks, so that nothing is written to them until `settle`, or for two seconds: the hold's
        number, and the peer's copy. Raises `BlockpairError`.
        """
        with translated():
            return self._engine.hold(offset, length)

    def settle(self, ticket: int, runs: Sequence[tuple[int, int]], why: str) -> None:
        """Write these blocks (first and count) of what is held as the peer has them, and let go. Raises
        `BlockpairError`.
        """
        self.call("settle", by="", ticket=ticket, runs=runs, why=why)

    def serves_until(self) -> float:
        """Until when this node may serve as Primary, in seconds of CLOCK_BOOTTIME: 0 when it may not,
        infinity where it needs no lease. Does not block.
        """
        return self._engine.serves_until()

    def asks(self) -> str:
        """What the arbiter is to be asked, as JSON (`blockpair.arbiter.machine.parse_ask`)."""
        return self._engine.asks()

    def arbiter_says(self, ask: int, configuration: str) -> None:
        """What the arbiter holds, as JSON. Raises `BlockpairError`."""
        with translated():
            self._engine.arbiter_says(ask, configuration)

    def attach(self, descriptor: int) -> None:
        """Serve a kernel device's connection; the engine owns the descriptor from now on."""
        with translated():
            self._engine.attach(descriptor)

    def detach(self) -> None:
        """Close the kernel device's connections."""
        with translated():
            self._engine.detach()

    def io_flusher(self, on: bool) -> None:
        """Mark the engine's threads as I/O flushers, or not."""
        with translated():
            self._engine.io_flusher(on)

    def export_bundle(self, path: Path, socket: Path) -> int | None:
        """Serve a bundle over the present device; blocks that changed since, None where that is not known.
        Raises `BlockpairError`.
        """
        with translated():
            return self._engine.export_bundle(str(path), str(socket))

    def end_export(self, socket: Path) -> None:
        """End the export on ``socket``, if it has not ended."""
        with translated():
            self._engine.end_export(str(socket))

    def stop(self) -> None:
        """Drain, flush, leave clean metadata, unlock; the node stays Primary on disk if it was."""
        with translated():
            self._engine.stop()
