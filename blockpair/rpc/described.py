"""What a method is to its callers. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class Description(Struct, frozen=True):
    """A method's name, its ``params`` as a JSON schema (2020-12), and whether whoever may use the socket may
    call it (``anyone``), or only who may change things.
    """

    name: str
    params: dict[str, Any]
    anyone: bool


def describe(name: str, params: type[Any], *, anyone: bool) -> Description:
    """That of the method ``name`` with parameters of the type ``params``."""
    return Description(name, msgspec.json.schema(params), anyone)
