"""What is said to etcd's JSON gateway (v3), and what its answers mean. Pure.

The gateway writes 64-bit numbers as strings, bytes as base64, and leaves out what is empty or false.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from blockpair.arbiter.interface import Configuration, Key, configuration

RANGE = "/v3/kv/range"
TXN = "/v3/kv/txn"

MAX_PREFIX = 256
_PREFIX = re.compile(r"(/[A-Za-z0-9_.-]+)+", re.ASCII)
# gRPC's codes by which a person has to mend something; of the others, nobody knows whether it was done.
_REFUSALS = {
    3: "invalid argument",
    7: "permission denied",
    9: "failed precondition",
    12: "unimplemented",
    16: "unauthenticated",
}
_RESOURCE_EXHAUSTED = 8


@dataclass(frozen=True)
class Held:
    """A key's value, and the revision of the store that wrote it: no two writes have the same."""

    value: bytes
    revision: int


@dataclass(frozen=True)
class Answer:
    """What an answer holds, and the cluster that gave it."""

    cluster: str
    held: Held | None = None
    succeeded: bool = False


@dataclass(frozen=True)
class Failure:
    """An answer that is none. ``final``: it will be the same until a person mends something."""

    reason: str
    final: bool


def check_prefix(prefix: str) -> str:
    """``prefix``, if keys may begin with it. Raises `ValueError` that states the rule."""
    if len(prefix) > MAX_PREFIX or _PREFIX.fullmatch(prefix) is None:
        raise ValueError(
            f"{prefix!r:.80} is not a prefix of keys: write it as /blockpair, of letters, digits, '_', '.', "
            f"'-' and '/', {MAX_PREFIX} characters at most, with no '/' at its end"
        )
    return prefix


def path_of(prefix: str, key: Key) -> str:
    """The key in etcd, as `etcdctl` takes it."""
    return f"{prefix}/{key.cluster}/{key.resource_id}"


def range_request(path: str) -> dict[str, Any]:
    """Reads a key; linearizable, for "serializable" is not asked for."""
    return {"key": _base64(path.encode())}


def swap_request(path: str, held: Held | None, value: bytes) -> dict[str, Any]:
    """Writes ``value`` if the key still is ``held``; None: is not there."""
    name = _base64(path.encode())
    if held is None:
        compare = [_equal(name, "CREATE", create_revision="0")]
    else:
        compare = [
            _equal(name, "MOD", mod_revision=str(held.revision)),
            _equal(name, "VALUE", value=_base64(held.value)),
        ]
    return {"compare": compare, "success": [{"request_put": {"key": name, "value": _base64(value)}}]}


def _equal(name: str, target: str, **value: str) -> dict[str, str]:
    return {"key": name, "target": target, "result": "EQUAL", **value}


def range_answer(document: object, path: str) -> Answer:
    """What a range answered. Raises `ValueError`."""
    answered = _object(document, "an answer")
    cluster = _cluster(answered)
    entries = answered.get("kvs", [])
    if not isinstance(entries, list) or len(entries) > 1:
        raise ValueError("kvs is not a list of one key at most")
    if not entries:
        return Answer(cluster)
    entry = _object(entries[0], "a key")
    if _bytes(entry.get("key")) != path.encode():
        raise ValueError("it is of another key than was asked for")
    return Answer(cluster, Held(_bytes(entry.get("value", "")), _number(entry.get("mod_revision"))))


def swap_answer(document: object) -> Answer:
    """What a transaction answered. Raises `ValueError`."""
    answered = _object(document, "an answer")
    succeeded = answered.get("succeeded", False)
    if not isinstance(succeeded, bool):
        raise ValueError("succeeded is neither true nor false")
    return Answer(_cluster(answered), succeeded=succeeded)


def failure(status: int, body: bytes) -> Failure:
    """What an answer with an HTTP status other than 200 means."""
    try:
        document = _object(json.loads(body), "an error")
        code, text = document.get("code"), document.get("message") or document.get("error")
    except (ValueError, RecursionError):
        code, text = None, None
    if not isinstance(code, int) or not isinstance(text, str):
        # Whatever it is that answers there: a path that it does not know will not become known.
        return Failure(f"HTTP status {status}", final=status in (400, 401, 403, 404, 405, 501))
    reason = f"{text[:200]} (gRPC code {code})"
    full = code == _RESOURCE_EXHAUSTED and "space exceeded" in text
    return Failure(reason, final=full or code in _REFUSALS)


def value_of(key: Key, new: Configuration) -> bytes:
    """What is kept: the configuration, and the resource's name for who looks at it with etcdctl."""
    return json.dumps({**new.document(), "name": key.name}, separators=(",", ":")).encode()


def configuration_of(value: bytes) -> Configuration:
    """The configuration in a value, whatever name stands beside it. Raises `ValueError`."""
    try:
        document = json.loads(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    return configuration({name: item for name, item in document.items() if name != "name"})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _object(document: object, what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ValueError(f"{what} is not a JSON object")
    return document


def _cluster(answered: dict[str, Any]) -> str:
    return str(_number(_object(answered.get("header"), "header").get("cluster_id")))


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except binascii.Error:
        raise ValueError("a key or value is not base64") from None


def _number(text: object) -> int:
    if not isinstance(text, str) or re.fullmatch(r"\d{1,20}", text, re.ASCII) is None:
        raise ValueError("a number is not one")
    return int(text)
