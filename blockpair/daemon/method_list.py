"""The daemon's methods, told by the daemon: for programs, and for the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from blockpair.cluster.server import PeerMethod
from blockpair.rpc.described import Description, describe
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method

NAME = "daemon.methods"


class MethodList(Struct, frozen=True):
    """``socket``: what is called on the daemon's socket; ``members``: what nodes of a cluster call of each
    other, on the control port.
    """

    socket: list[Description]
    members: list[Description]


def all_methods(
    tables: Iterable[Mapping[str, Method]], members: Mapping[str, PeerMethod]
) -> dict[str, Method]:
    """Those of all tables, and one that lists them, itself and what members may call."""
    methods = {name: method for table in tables for name, method in table.items()}
    methods[NAME] = _method_list(methods, members)
    return methods


def _method_list(own: Mapping[str, Method], members: Mapping[str, PeerMethod]) -> Method:
    """The method that lists what is in both, and itself."""

    async def listed(_: Caller, __: NoParams) -> MethodList:
        return MethodList(
            [
                describe(name, each.params, each.run, anyone=each.read_only)
                for name, each in sorted(own.items())
            ],
            [describe(name, each.params, anyone=False) for name, each in sorted(members.items())],
        )

    return Method(NoParams, listed, read_only=True)
