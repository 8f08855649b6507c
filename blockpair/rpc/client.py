"""The CLI's side of the daemon's socket: blocking, one call at a time."""

from __future__ import annotations

import itertools
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.framing import LineSplitter, LineTooLong
from blockpair.rpc.messages import MAX_RESPONSE_BYTES, decode_response, encode_request, error_from

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Program:
    """Whom a client speaks to, for its messages: name, command, unit, where its log is."""

    name: str
    command: str
    unit: str
    log: str

    def start(self, socket: Path) -> str:
        """How the one whose socket this is would be started."""
        if socket.is_relative_to("/run"):
            return f"`systemctl start {self.unit}`"
        return f"`BLOCKPAIR_DIR={shlex.quote(str(socket.parent.parent))} {self.command}`"


# What only looks at memory is answered at once by a daemon that works at all.
LOOK_SECONDS = 10.0

DAEMON = Program(
    "blockpaird",
    "blockpaird",
    "blockpaird",
    "`journalctl -u blockpaird`",
)


class Client:
    """A connection to ``blockpaird``, or another ``program``. Every fault is a `BlockpairError`, of kind
    no_daemon without one.
    """

    def __init__(self, path: Path, program: Program = DAEMON) -> None:
        self._path = path
        self._program = program
        self._ids = itertools.count(1)
        self._lines = LineSplitter(MAX_RESPONSE_BYTES)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except PermissionError:
            self._socket.close()
            raise BlockpairError(
                ErrorKind.FAILED,
                f"you may not use the daemon's socket {path}",
                "run this as root, or as a member of the group blockpair",
            ) from None
        except OSError as error:
            self._socket.close()
            raise BlockpairError(
                ErrorKind.NO_DAEMON,
                f"no {program.name} answers on {path}: {error.strerror or error}",
                f"start it: {program.start(path)}; for another node: BLOCKPAIR_DIR, or `blockpair --dir`",
            ) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the daemon gives up a wait that it was asked for."""
        self._socket.close()

    def call(
        self, method: str, params: Any, result: type[_Result], *, patience: float | None = None
    ) -> _Result:
        """Call ``method`` and wait for its result: ``patience`` seconds, or however long the daemon takes.
        Raises `BlockpairError`.
        """
        raw = self.call_raw(method, params, patience=patience)
        try:
            return msgspec.json.decode(raw, type=result)
        except msgspec.DecodeError as error:
            raise self._mismatch(str(error)) from None

    def call_raw(self, method: str, params: Any, *, patience: float | None = None) -> bytes:
        """Like `call`, with the result as JSON text."""
        call_id = next(self._ids)
        try:
            self._socket.settimeout(patience)
            self._socket.sendall(encode_request(call_id, method, params))
            line = self._read_line()
        except TimeoutError:
            raise self._mute(patience) from None
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from None
        try:
            response = decode_response(line)
        except ValueError as error:
            raise self._mismatch(str(error)) from None
        if not isinstance(response.error, msgspec.UnsetType):
            raise error_from(response.error)
        if response.id != call_id or isinstance(response.result, msgspec.UnsetType):
            raise self._mismatch(f"an answer to call {response.id!r} instead of {call_id}")
        return bytes(response.result)

    def _read_line(self) -> bytes:
        while True:
            data = self._socket.recv(1 << 16)
            if not data:
                raise self._gone("it closed the connection")
            try:
                lines = self._lines.feed(data)
            except LineTooLong as error:
                raise self._mismatch(str(error)) from None
            if lines:
                return lines[0]

    def _gone(self, why: str) -> BlockpairError:
        return BlockpairError(
            ErrorKind.NO_DAEMON,
            f"{self._program.name} went away during the call: {why}",
            f"see its log ({self._program.log}); what was asked may or may not have been done: "
            "look with `blockpair status`",
        )

    def _mute(self, patience: float | None) -> BlockpairError:
        return BlockpairError(
            ErrorKind.NO_DAEMON,
            f"{self._program.name} takes calls on {self._path} and has not answered for {patience:g} s: "
            "it is frozen, or its machine is overloaded",
            f"look at its process, in `ps ax` (state T: stopped, D: waits for a disk), and at its log "
            f"({self._program.log})",
        )

    def _mismatch(self, why: str) -> BlockpairError:
        return BlockpairError(
            ErrorKind.FAILED,
            f"what answers on {self._path} does not speak this version's protocol: {why}",
            "use the blockpair of the same version as the running blockpaird (`blockpair --version`)",
        )
