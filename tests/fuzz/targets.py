"""What is fuzzed on the Python side: the parsers of bytes from outside, their corpora, and what must hold."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import capture_logs

from blockpair.config.files import ConfigError, read_toml
from blockpair.config.node import read_node
from blockpair.config.resource import (
    PeerTable,
    ResourceFile,
    TimeoutsTable,
    read_resource,
    resource_text,
)
from blockpair.daemon import methods
from blockpair.history import parse_history
from blockpair.rpc import messages
from blockpair.rpc.framing import LineSplitter, LineTooLong
from blockpair.rpc.server import Caller, Method, Server
from blockpair.signature import parse_signatures
from blockpair.status.loss import REPORT_MAX, Loss, SideLoss, decode_report, encode_report
from tests.fuzz.cluster_targets import CLUSTER_TARGETS
from tests.fuzz.target import Target, demand

# JSON-RPC: what a local user writes to the socket, and what a client reads from it.

_CODES = {messages.PARSE_ERROR, messages.INVALID_REQUEST, messages.METHOD_NOT_FOUND, messages.INVALID_PARAMS}
_ROOT = Caller(1, 0, 0)
_SPLIT_LIMIT = 4096


async def _echo(_caller: Caller, params: Any) -> Any:
    return params


def _server() -> Server:
    """Every form of parameters that the daemon's methods have, behind methods that give them back."""
    forms = [value for name, value in vars(methods).items() if name.endswith("Params")]
    return Server({form.__name__: Method(form, _echo) for form in forms}, "nowhere")


_SERVER = _server()


def _lines(data: bytes, size: int) -> list[bytes] | None:
    splitter = LineSplitter(_SPLIT_LIMIT)
    found: list[bytes] = []
    try:
        for start in range(0, len(data), size):
            found += splitter.feed(data[start : start + size])
            demand(splitter.held <= _SPLIT_LIMIT, "more than the limit is held")
    except LineTooLong:
        return None
    return found


def check_rpc(data: bytes) -> str:
    whole = _lines(data, max(1, len(data)))
    demand(whole == _lines(data, 1) == _lines(data, 7), "in pieces it splits into other lines")
    return " ".join(_request(line) for line in data.split(b"\n")[:4])


def _request(line: bytes) -> str:
    try:
        request = messages.decode_request(line)
    except messages.RpcError as error:
        demand(error.code in _CODES and bool(str(error)), f"answered with {error.code} {error}")
        return str(error.code)
    again = messages.decode_request(msgspec.json.encode(request))
    demand(again == request, "a request does not encode to itself")
    with capture_logs():
        answer = asyncio.run(_SERVER.answer(_ROOT, request))
    demand(answer.endswith(b"\n") and answer.count(b"\n") == 1, "an answer is not one line")
    response = messages.decode_response(answer)
    if isinstance(response.error, msgspec.UnsetType):
        return f"{request.method[:12]} done"
    demand(response.error.code in _CODES and bool(response.error.message), f"answered with {response.error}")
    return f"{response.error.code} {response.error.message[:24]}"


def rpc_corpus() -> dict[str, bytes]:
    call = messages.encode_request
    create = {"name": "r0", "device": "/dev/sdb", "peers": [{"name": "b", "address": "10.0.0.2:7788"}]}
    wait = {"name": "r0", "until": ["connected"], "timeout_seconds": 2.5}
    return {
        "status": call(1, "StatusParams", {"name": None}) + call(2, "NoParams", {}),
        "create": call(3, "CreateParams", {**create, "block_size": "4K", "protocol": "C", "force": False}),
        "wait": call(4, "WaitParams", wait),
        "resolve": call(5, "ResolveParams", {"name": "r0", "victim": "b", "bundle": True}),
        "unknown": b'{"jsonrpc":"2.0","method":"nothing","id":"x"}\n{"jsonrpc":"1.0","method":"x"}\n',
    }


def check_response(data: bytes) -> str:
    try:
        response = messages.decode_response(data)
    except ValueError as error:
        demand(bool(str(error)), "an error without a text")
        return str(error)[:32]
    if isinstance(response.error, msgspec.UnsetType):
        return "result"
    told = messages.error_from(response.error)
    return f"{told.kind} {told.exit_code}"


def response_corpus() -> dict[str, bytes]:
    refused = messages.ErrorObject(3, "refused", messages.ErrorData("unsafe", "do this", 3))
    return {
        "result": messages.encode_result(1, {"a": [1, 2.5, None, "x"]}),
        "error": messages.encode_error(2, refused),
        "bare-error": b'{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"no"}}',
    }


# Configuration files: what an administrator, or a template, writes.


def _config(data: bytes, name: str, read: Callable[[Path], Any]) -> str:
    with tempfile.TemporaryDirectory(prefix="bp-fuzz-") as folder:
        file = Path(folder) / name
        file.write_bytes(data)
        try:
            first = read(file)
        except ConfigError as error:
            demand(str(file) in error.message and bool(error.remedy) and bool(error.reason), repr(error))
            demand(len(error.message) < 2000 + 12 * len(data), "a message longer than its cause")
            return f"{error.key[:24]} {error.reason[:16]}"
        demand(read(file) == first, "read twice, it differs")
        if name != "blockpair.toml":
            file.write_text(resource_text(read_toml(file, ResourceFile)), encoding="utf-8")
            demand(read(file) == first, "written and read again, it differs")
        return "fine"


def check_node(data: bytes) -> str:
    return _config(data, "blockpair.toml", read_node)


def node_corpus() -> dict[str, bytes]:
    text = '[node]\nname = "a"\nlisten = "[::1]:7788"\nkernel_device = "off"\n\n[log]\nformat = "json"\n'
    return {"node": text.encode(), "empty": b"", "comment": b"# nothing\n[log]\nlevel = 'debug'\n"}


def check_resource(data: bytes) -> str:
    return _config(data, "r0.toml", lambda file: read_resource(file, "a"))


def resource_corpus() -> dict[str, bytes]:
    plain = ResourceFile("/dev/sdb", "internal", [PeerTable("b", "10.0.0.2:7788")])
    full = msgspec.structs.replace(
        plain,
        metadata="/var/lib/m",
        protocol="A",
        block_size="64K",
        split_brain="priority",
        priority=7,
        timeouts=TimeoutsTable("500ms", "2.5s"),
    )
    return {"plain": resource_text(plain).encode(), "full": resource_text(full).encode()}


# What a peer's daemon says of its data, what the engine kept, what wipefs prints of a disk.


def check_report(data: bytes) -> str:
    text = data.decode("utf-8", "replace")[:REPORT_MAX]
    side = decode_report(text, "b")
    demand(side.node == "b", "a peer speaks for another node")
    encoded = encode_report(side)
    demand(len(encoded.encode()) <= REPORT_MAX, "a report longer than a peer takes")
    again = decode_report(encoded, "b")
    kept = side.files is None or again.files == side.files
    demand(not kept or again == side or again.problem is not None, "a report does not encode to itself")
    return (side.problem or "fine")[:48]


def report_corpus() -> dict[str, bytes]:
    loss = Loss("a", 1, 2, 8192, 0, False, True)
    full = SideLoss("b", loss=loss, diverged_at_s=1_700_000_000, changed_at_s=1_700_000_001, bundle="/x/y")
    return {"full": encode_report(full).encode(), "problem": encode_report(SideLoss("b", "no")).encode()}


def check_history(data: bytes) -> str:
    found = parse_history(data)
    demand(len(found) <= data.count(b"\n") + 1, "more entries than lines")
    again = parse_history(b"\n".join(msgspec.json.encode(entry) for entry in found))
    demand(again == found, "entries do not encode to themselves")
    return f"{len(found)} {len({entry.what for entry in found})}"


def history_corpus() -> dict[str, bytes]:
    entry = {
        "time": "2026-01-01T00:00:00Z",
        "node": "a",
        "what": "promoted",
        "text": "x",
        "fields": {"k": "v"},
    }
    line = msgspec.json.encode(entry)
    return {"entries": line + b"\n" + line.replace(b"promoted", b"demoted") + b"\n", "torn": line[:30]}


def check_signature(data: bytes) -> str:
    try:
        return f"{len(parse_signatures(data))} found"
    except ValueError as error:
        demand(bool(str(error)), "an error without a text")
        return str(error)[:48]


def signature_corpus() -> dict[str, bytes]:
    text = '{"signatures":[{"device":"sdb","offset":"0x438","type":"ext4","uuid":"1-2","label":null}]}'
    return {"ext4": text.encode(), "none": b"\n"}


_JSON_WORDS = [b'"jsonrpc":"2.0"', b'"params":', b'"id":null', b'"name":', b"\n", b",", b":", b"{", b"}"]
_TOML_WORDS = [
    b"[node]\n",
    b"[[peer]]\n",
    b"name",
    b" = ",
    b"[timeouts]\n",
    b"nbd.queues = 4\n",
    b"'''",
    b"\n",
]

TARGETS = {
    target.name: target
    for target in (
        *CLUSTER_TARGETS,
        Target("rpc", rpc_corpus, _JSON_WORDS, check_rpc),
        Target("rpc-response", response_corpus, [*_JSON_WORDS, b'"error":', b'"result":'], check_response),
        Target("config-node", node_corpus, _TOML_WORDS, check_node),
        Target("config-resource", resource_corpus, _TOML_WORDS, check_resource),
        Target("report", report_corpus, [b'"files":{}', b'"loss":null', b'"node":"a"'], check_report),
        Target("history", history_corpus, [b'"fields":{', b'"what":', b"\n"], check_history),
        Target("signature", signature_corpus, [b'"offset":"', b'"signatures":'], check_signature),
    )
}


def corpus_folder(name: str) -> Path:
    """Where the files of a target lie."""
    return Path(__file__).parent / "corpus" / name


def read_corpus(target: Target) -> list[tuple[str, bytes]]:
    """The kept files, and what the present code writes."""
    kept = [(file.name, file.read_bytes()) for file in sorted(corpus_folder(target.name).iterdir())]
    known = {data for _, data in kept}
    return kept + [(name, data) for name, data in target.corpus().items() if data not in known]
