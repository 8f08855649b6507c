"""What a cluster reads from outside: the shared configuration, a join token, the messages of a join, and
calls to a witness.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from blockpair.arbiter.interface import MAX_EPOCH, Configuration, configuration
from blockpair.arbiter.witness import protocol
from blockpair.arbiter.witness.calls import meaning
from blockpair.arbiter.witness.register import ReadOperation, SwapOperation
from blockpair.config.cluster import cluster_text, parse_cluster, resources_on
from blockpair.config.files import ConfigError
from blockpair.errors import BlockpairError
from blockpair.rpc import messages
from blockpair.trust.authority import fingerprint, new_authority
from blockpair.trust.join import (
    Doorkeeper,
    HelloAnswer,
    HelloParams,
    Joiner,
    RequestAnswer,
    RequestParams,
    WitnessAnswer,
    WitnessParams,
)
from blockpair.trust.tokens import Book, Record, Token, parse_token, secret_hash
from tests.fuzz.target import Target, demand

_FILE = Path("/etc/blockpair/cluster.toml")
_NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
_AUTHORITY = new_authority("fuzz", _NOW).certificate
_SECRET = bytes(range(32))
_TOKEN = Token("00112233aabbccdd", _SECRET, hashlib.sha256(b"authority").digest())
_NONCE = bytes(32)

_CLUSTER = """\
[cluster]
name = "east"
id = "6f0bd4f1-0f5e-4a55-9d2b-51d9d1fcb6ab"

[node.a]
addresses = ["10.0.0.1", "fd00::1"]

[node.b]
addresses = ["10.0.0.2", "fd00::2"]
port = 7790
control_port = 7791

[resource.r0]
protocol = "C"
[resource.r0.on.a]
device = "/dev/vg/r0"
metadata = "internal"
[resource.r0.on.b]
device = "/dev/vg/r0"
metadata = "/var/lib/m"
priority = 3
"""


def check_cluster(data: bytes) -> str:
    # From a file or a peer it comes as text, which is UTF-8 by then.
    text = data.decode("utf-8", "replace")
    try:
        content = parse_cluster(text, _FILE)
    except ConfigError as error:
        demand(str(_FILE) in error.message and bool(error.remedy) and bool(error.reason), repr(error))
        return f"{error.key[:24]} {error.reason[:16]}"
    demand(parse_cluster(cluster_text(content), _FILE) == content, "written and read again, it differs")
    made = [resources_on(content, node) for node in content.node]
    return f"{len(content.node)} nodes, {sum(map(len, made))} copies"


def cluster_corpus() -> dict[str, bytes]:
    return {"two-nodes": _CLUSTER.encode(), "no-resource": _CLUSTER.partition("[resource")[0].encode()}


def check_token(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    try:
        token = parse_token(text)
    except ValueError as error:
        demand(
            bool(str(error)) and (len(text) < 12 or text[5:] not in str(error)), "an error repeats the token"
        )
        return str(error)
    demand(parse_token(token.text()) == token, "a token does not come back from its text")
    demand(token.secret.hex() not in repr(token), "a token shows its secret")
    return "fine"


def token_corpus() -> dict[str, bytes]:
    return {"token": _TOKEN.text().encode()}


def check_join(data: bytes) -> str:
    """Each line is taken for each message of a join, on both sides; nobody is let in or believed by it."""
    record = Record(
        secret_hash(_SECRET).hex(), fingerprint(_AUTHORITY).hex(), _NOW, _NOW + timedelta(minutes=15)
    )
    book = Book({_TOKEN.id: record})
    outcome = []
    for line in data.split(b"\n")[:4]:
        keeper = Doorkeeper(b"leaf", _AUTHORITY, _NONCE)
        joiner = Joiner(_TOKEN, "b", "key", _NONCE)
        forms = (HelloParams, RequestParams, WitnessParams, HelloAnswer, RequestAnswer, WitnessAnswer)
        for form in forms:
            try:
                message: Any = msgspec.json.decode(line, type=form)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            try:
                if isinstance(message, HelloParams):
                    answer = keeper.hello(message, book, _NOW)
                    demand(message.token_id == _TOKEN.id, "an unknown token is answered")
                    demand(_SECRET.hex() not in repr(answer), "the secret is told")
                elif isinstance(message, RequestParams):
                    keeper.hello(HelloParams(_TOKEN.id, _NONCE.hex()), book, _NOW)
                    keeper.request(message, book, _NOW)
                    demand(bytes.fromhex(message.secret) == _SECRET, "let in without the secret")
                elif isinstance(message, WitnessParams):
                    keeper.hello(HelloParams(_TOKEN.id, _NONCE.hex()), book, _NOW)
                    keeper.proved(message.secret, book, _NOW)
                    demand(bytes.fromhex(message.secret) == _SECRET, "let in without the secret")
                elif isinstance(message, WitnessAnswer):
                    joiner.accept_witness(message, _NOW)
                    demand(False, "what has no certificate was accepted")
                elif isinstance(message, HelloAnswer):
                    joiner.check(message, b"leaf", _NOW)
                    demand(False, "what has no certificate was believed")
                else:
                    joiner.accept(message, _NOW)
                    demand(False, "what has no certificate was accepted")
                outcome.append(f"{form.__name__} fine")
            except BlockpairError as error:
                demand(bool(error.message) and bool(error.remedy), repr(error))
                demand(_SECRET.hex() not in error.message, "an error repeats the secret")
                outcome.append(f"{form.__name__} {error.kind}")
    return " ".join(outcome)


def join_corpus() -> dict[str, bytes]:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    return {
        "hello": msgspec.json.encode(HelloParams(_TOKEN.id, _NONCE.hex())),
        "request": msgspec.json.encode(RequestParams(_SECRET.hex(), pem, "b", ["10.0.0.2"], 7788, 7789)),
        "hello-answer": msgspec.json.encode(HelloAnswer(pem, _NONCE.hex(), _NONCE.hex())),
        "witness": msgspec.json.encode(WitnessParams(_SECRET.hex(), pem)),
        "witness-answer": msgspec.json.encode(WitnessAnswer(pem, pem, "6f0bd4f1", "east")),
        "request-answer": msgspec.json.encode(RequestAnswer(pem, pem, pem, {"versions": []})),
    }


def check_witness(data: bytes) -> str:
    """Each line is a node's call to a witness, and each that is taken means what it says."""
    outcome = []
    for line in data.split(b"\n")[:4]:
        try:
            request = messages.decode_request(line)
            asked = meaning("east", "a", request)
        except messages.RpcError as error:
            demand(bool(str(error)), "an error without words")
            outcome.append(f"{error.code} {str(error)[:32]}")
            continue
        if isinstance(asked, SwapOperation):
            for found in (asked.expected, asked.new):
                if found is not None:
                    demand(configuration(found.document()) == found, "written and read again, it differs")
                    demand(1 <= found.epoch <= MAX_EPOCH and bool(found.in_sync), repr(found))
        if isinstance(asked, ReadOperation | SwapOperation):
            demand(len(asked.resource) == 32 and asked.cluster == "east", repr(asked))
        outcome.append(type(asked).__name__)
    return " ".join(outcome)


def witness_corpus() -> dict[str, bytes]:
    one, two = Configuration(1, "a", frozenset("ab")), Configuration(2, "b", frozenset("b"))
    swap = protocol.SwapParams("0" * 32, "r0", one.document(), two.document())
    first = protocol.SwapParams("f" * 32, "r1", None, one.document())
    take = protocol.TakeParams("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----")
    calls = {
        "read": (protocol.READ, protocol.ReadParams("0" * 32)),
        "swap": (protocol.SWAP, swap),
        "first": (protocol.SWAP, first),
        "request": (protocol.REQUEST, protocol.NoParams()),
        "take": (protocol.TAKE, take),
    }
    return {name: messages.encode_request(1, method, params) for name, (method, params) in calls.items()}


_WORDS = [
    b"[node.c]\n",
    b"[resource.r1]\n",
    b'addresses = ["::1"]\n',
    b"127.0.0.1",
    b'tls = "off"\n',
    b"\xed\xb2\x80",
]
CLUSTER_TARGETS = (
    Target("config-cluster", cluster_corpus, _WORDS, check_cluster),
    Target("token", token_corpus, [b"bpj1-", b"=", b"-", b"_"], check_token),
    Target("witness", witness_corpus, [b'"epoch":', b'"in_sync":["a"]', b"null", b"0" * 32], check_witness),
    Target("join", join_corpus, [b'"token_id":"00112233aabbccdd"', b'"secret":"', b"00" * 32], check_join),
)
