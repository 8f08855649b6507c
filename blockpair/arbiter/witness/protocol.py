"""What a node and a witness say to each other: JSON-RPC, a line a message, over TLS 1.3; calls overlap."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from blockpair.arbiter.interface import Configuration, configuration
from blockpair.config.names import check_name

DEFAULT_PORT = 7790

READ = "register.read"
SWAP = "register.swap"
REQUEST = "trust.request"
TAKE = "trust.take"

MAX_LINE_BYTES = 16 << 10
# Of one connection; beyond this the socket is left alone, and the caller waits.
MAX_IN_FLIGHT = 256

_RESOURCE_ID = re.compile(r"[0-9a-f]{32}")


class ReadParams(Struct, forbid_unknown_fields=True, frozen=True):
    """Whose configuration: the resource's id, 32 hexadecimal digits."""

    resource: str


class SwapParams(Struct, forbid_unknown_fields=True, frozen=True):
    """``name``: the resource's, for people. ``expected``: None where there shall be none yet."""

    resource: str
    name: str
    expected: Any
    new: Any


class NoParams(Struct, forbid_unknown_fields=True, frozen=True):
    """None."""


class TakeParams(Struct, forbid_unknown_fields=True, frozen=True):
    """The authority that counts, and a certificate of it for the key of the last request."""

    authority: str
    certificate: str


def check_resource(resource: str) -> str:
    """Raises `ValueError`."""
    if _RESOURCE_ID.fullmatch(resource) is None:
        raise ValueError("a resource's id has 32 hexadecimal digits")
    return resource


def check_swap(params: SwapParams) -> tuple[Configuration | None, Configuration]:
    """What is expected, and what shall be. Raises `ValueError`."""
    check_resource(params.resource)
    check_name(params.name)
    expected = None if params.expected is None else configuration(params.expected)
    new = configuration(params.new)
    for name in {new.primary, *new.in_sync}:
        check_name(name)
    return expected, new


def names(node: str, *configurations: Configuration | None) -> bool:
    """Whether one of them is about ``node``."""
    return any(found is not None and node in {found.primary, *found.in_sync} for found in configurations)
