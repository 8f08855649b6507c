"""Who may call which of the daemon's methods."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from blockpair.cluster.change import Configuration
from blockpair.cluster.cluster import Cluster
from blockpair.cluster.membership import Membership
from blockpair.cluster.rekey import Rekey
from blockpair.cluster.removal import Removal
from blockpair.cluster.report import Reporter
from blockpair.config.health import HealthConfig
from blockpair.config.locations import Locations
from blockpair.config.node import NodeConfig
from blockpair.daemon.checks import Checks
from blockpair.daemon.cluster_methods import ClusterMethods
from blockpair.daemon.config_methods import ConfigMethods
from blockpair.daemon.creations import Creations
from blockpair.daemon.event_methods import EventMethods
from blockpair.daemon.health import HealthWatch
from blockpair.daemon.local import LocalResources
from blockpair.daemon.manager import Manager
from blockpair.daemon.methods import Methods
from blockpair.daemon.services import Services
from blockpair.errors import ErrorKind, ExitCode
from blockpair.events.stream import Stream
from blockpair.rpc.messages import NoParams, Request, decode_response, error_from
from blockpair.rpc.server import Caller, Method, Server

STRANGER = os.geteuid() + 1
# Whatever is not here is root's. A method that is added needs no entry to be safe; to be open, it needs one.
OPEN = {
    "daemon.info",
    "resource.status",
    "resource.wait",
    "resource.metadata",
    "resource.plan",
    "resource.history",
    "verify_report",
    "events.read",
    "node.health",
    "node.checks",
    "bundle.list",
    "bundle.find",
    "bundle.show",
    "cluster.status",
    "config.show",
    "config.diff",
    "config.history",
}


def every_method() -> dict[str, Method]:
    """The tables as the daemon has them; nothing of them is run."""
    cluster = ClusterMethods(
        cast(Cluster, None),
        cast(Membership, None),
        cast(Removal, None),
        cast(Rekey, None),
        cast(Reporter, None),
        local=cast(LocalResources, None),
    )
    creations = cast(Creations, None)
    config = ConfigMethods(cast(Configuration, None), creations, cast(Any, None))
    own = Methods(cast(Manager, None), "nowhere", creations, cast(Services, None))
    events = EventMethods(cast(NodeConfig, None), cast(Locations, None), cast(Stream, None))
    health = HealthWatch("a", HealthConfig(), lacking=cast(Any, None), peers=list, call=cast(Any, None))
    checks = Checks(cast(Manager, None), cast(Cluster, SimpleNamespace(methods={})), cast(Any, None))
    parts = (own.table(), cluster.table(), config.table(), events.table(), health.methods(), checks.methods())
    return {name: method for table in parts for name, method in table.items()}


def test_the_group_may_look_and_only_look() -> None:
    methods = every_method()
    assert {name for name, method in methods.items() if method.read_only} == OPEN
    assert methods.keys() - OPEN, "there is nothing left for root"


def test_a_method_that_says_nothing_is_roots() -> None:
    async def run(_caller: Caller, _params: Any) -> None:
        """Never called."""

    assert not Method(NoParams, run).read_only


async def _call(caller: Caller, method: str, *, read_only: bool, ran: list[int]) -> bytes:
    async def run(given: Caller, _params: Any) -> str:
        ran.append(given.uid)
        return "done"

    server = Server({"change": Method(NoParams, run, read_only=read_only)}, "nowhere")
    return await server.answer(caller, Request("2.0", method, msgspec.Raw(b"{}"), 1))


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_root_and_the_daemons_own_user_may_change(uid: int) -> None:
    ran: list[int] = []
    asyncio.run(_call(Caller(1, uid, 0), "change", read_only=False, ran=ran))
    assert ran == [uid]


def test_anybody_else_may_call_what_is_read_only() -> None:
    ran: list[int] = []
    asyncio.run(_call(Caller(1, STRANGER, 0), "change", read_only=True, ran=ran))
    assert ran == [STRANGER]


def test_a_refusal_changes_nothing_says_why_and_is_logged() -> None:
    ran: list[int] = []
    with capture_logs() as logs:
        line = asyncio.run(_call(Caller(77, STRANGER, 0), "change", read_only=False, ran=ran))
    assert not ran
    told = decode_response(line).error
    assert not isinstance(told, msgspec.UnsetType)
    error = error_from(told)
    assert (error.kind, error.exit_code) == (ErrorKind.NOT_PERMITTED, ExitCode.FAILED)
    assert str(STRANGER) in error.message and "change" in error.message and "root" in error.remedy
    assert [(entry["event"], entry["uid"], entry["pid"], entry["method"]) for entry in logs] == [
        ("command.denied", STRANGER, 77, "change")
    ]
