"""The JSON-RPC messages: decoding, encoding, and error codes. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from blockpair.errors import BlockpairError, ErrorKind, kind_of

# A request line; a client's longest is a `create` with its paths and peers.
MAX_REQUEST_BYTES = 1 << 20
# An answer line; the longest is a metadata dump.
MAX_RESPONSE_BYTES = 16 << 20

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

# JSON-RPC leaves these to the application: a code a kind, never changed once released.
CODES = {
    ErrorKind.FAILED: 1,
    ErrorKind.UNSAFE: 3,
    ErrorKind.IN_USE: 4,
    ErrorKind.INVALID: 10,
    ErrorKind.NO_METADATA: 11,
    ErrorKind.DAMAGED: 12,
    ErrorKind.NEWER: 13,
    ErrorKind.MISMATCH: 14,
    ErrorKind.IO: 15,
    ErrorKind.NOT_FOUND: 16,
    ErrorKind.EXISTS: 17,
    ErrorKind.CONFIG: 18,
    ErrorKind.TIMEOUT: 19,
    ErrorKind.NO_DAEMON: 20,
    ErrorKind.UNREACHABLE: 21,
    ErrorKind.NOT_PERMITTED: 22,
    ErrorKind.BUSY: 23,
    ErrorKind.USAGE: INVALID_PARAMS,
    ErrorKind.INTERNAL: INTERNAL_ERROR,
}

Id = str | int | None


class NoParams(Struct, forbid_unknown_fields=True):
    """For methods without parameters."""


class Request(Struct, frozen=True):
    """A call. Without ``id`` it is a notification: it is carried out and not answered."""

    jsonrpc: str
    method: str
    params: Raw = Raw(b"{}")
    id: str | int | UnsetType | None = UNSET


class ErrorData(Struct, frozen=True):
    """What a program needs beside the code: the kind, what to do, and the CLI's exit code."""

    kind: str
    remedy: str
    exit_code: int


class ErrorObject(Struct, frozen=True):
    """JSON-RPC's error object."""

    code: int
    message: str
    data: ErrorData | None = None


class Response(Struct, frozen=True, omit_defaults=True):
    """An answer as a client reads it: ``result`` or ``error``."""

    jsonrpc: str
    id: Id
    result: Raw | UnsetType = UNSET
    error: ErrorObject | UnsetType = UNSET


class RpcError(Exception):
    """A message that is not answered by a method, with its JSON-RPC code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


_REQUEST = msgspec.json.Decoder(Request)
_RESPONSE = msgspec.json.Decoder(Response)


def decode_request(line: bytes) -> Request:
    """The request in a line. Raises `RpcError` with the code JSON-RPC assigns to the fault."""
    try:
        request = _REQUEST.decode(line)
    except msgspec.ValidationError as error:
        raise RpcError(INVALID_REQUEST, f"not a JSON-RPC 2.0 request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RpcError(PARSE_ERROR, f"not JSON: {error}") from None
    if request.jsonrpc != "2.0":
        raise RpcError(INVALID_REQUEST, f'jsonrpc must be "2.0", not {request.jsonrpc!r}')
    return request


def decode_response(line: bytes) -> Response:
    """The response in a line. Raises `ValueError` for anything else."""
    try:
        response = _RESPONSE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if (response.result is UNSET) == (response.error is UNSET):
        raise ValueError("neither or both of result and error")
    return response


def encode_request(call_id: int, method: str, params: Any) -> bytes:
    """A request line, with its newline."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}) + b"\n"


def encode_result(call_id: Id, result: Any) -> bytes:
    """A response line, with its newline."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, "result": result}) + b"\n"


def encode_error(call_id: Id, error: ErrorObject) -> bytes:
    """A response line that tells of a failure, with its newline."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, "error": error}) + b"\n"


def error_object(error: BlockpairError) -> ErrorObject:
    """``error`` as it crosses the wire."""
    data = ErrorData(error.kind.value, error.remedy, int(error.exit_code))
    return ErrorObject(CODES[error.kind], error.message, data)


def error_from(obj: ErrorObject) -> BlockpairError:
    """The error an answer tells of; codes of JSON-RPC itself mean that client and daemon do not fit."""
    if obj.data is not None:
        return BlockpairError(kind_of(obj.data.kind), obj.message, obj.data.remedy)
    return BlockpairError(
        ErrorKind.FAILED,
        f"the daemon did not understand the request: {obj.message}",
        "use the blockpair of the same version as the running blockpaird (`blockpair --version`)",
    )
