"""What nodes ask and answer each other about the cluster's configuration."""

from __future__ import annotations

from msgspec import Struct

from blockpair.cluster.history import Version
from blockpair.cluster.rules import Task


class StateParams(Struct, forbid_unknown_fields=True):
    """``head``: the caller's; ``hold``: the change it makes at the moment."""

    head: str
    hold: str | None = None


class FetchParams(Struct, forbid_unknown_fields=True):
    """``have``: the ids of the caller's versions."""

    have: list[str]


class PrepareParams(Struct, forbid_unknown_fields=True):
    """A version that may come."""

    hold: str
    version: Version
    task: Task


class CommitParams(Struct, forbid_unknown_fields=True):
    """A version that has come."""

    hold: str
    version: Version


class AbortParams(Struct, forbid_unknown_fields=True):
    """A change that does not come."""

    hold: str


class HeadAnswer(Struct):
    """The answering node's head, empty without a configuration; ``hold``: the change that it makes."""

    head: str
    hold: str | None = None


class FetchAnswer(Struct):
    """The versions after the newest one that both have, oldest first."""

    versions: list[Version]
