"""A target of the fuzzer, and how its check says that something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Fault(AssertionError):
    """An input for which a promise does not hold."""


@dataclass(frozen=True)
class Target:
    """``check`` raises `Fault`, or whatever the parser lets out, for an input that shows a fault. It gives
    the kind of outcome: an input with a new kind is kept to go on from.
    """

    name: str
    corpus: Callable[[], dict[str, bytes]]
    words: Sequence[bytes]
    check: Callable[[bytes], str]


def demand(condition: bool, what: str) -> None:
    """Raise `Fault` unless ``condition``."""
    if not condition:
        raise Fault(what)
