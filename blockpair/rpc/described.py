"""What a method is to its callers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Struct


class Description(Struct, frozen=True):
    """A method's name, its ``params`` and its ``result`` as JSON schemas (2020-12; None: an object of no
    published form), and whether whoever may use the socket may call it (``anyone``), or only who may change
    things.
    """

    name: str
    params: dict[str, Any]
    result: dict[str, Any] | None
    anyone: bool


def describe(
    name: str, params: type[Any], run: Callable[..., Any] | None = None, *, anyone: bool
) -> Description:
    """That of the method ``name`` with parameters of the type ``params``; its result is of the type that the
    function which carries it out, ``run``, is annotated with.
    """
    result = Any if run is None else get_type_hints(run)["return"]
    return Description(
        name, msgspec.json.schema(params), None if result is Any else _schema(result), anyone=anyone
    )


def _schema(form: Any) -> dict[str, Any]:
    if not isinstance(form, UnionType):
        return msgspec.json.schema(form)
    # Which of several it is, the parameters decide, not a tag.
    each, shared = msgspec.json.schema_components(get_args(form))
    return {"anyOf": list(each), "$defs": shared}
