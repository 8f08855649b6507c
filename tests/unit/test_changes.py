"""What the log, and so the stream of events, says of a command that was refused."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from blockpair.daemon.changes import change
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.events.event import event_of
from blockpair.rpc.server import Caller


class _Named(msgspec.Struct):
    name: str


def test_who_reads_the_event_of_a_refused_command_is_told_what_to_do() -> None:
    async def refuse(_: Any) -> None:
        raise BlockpairError(ErrorKind.IN_USE, "fio uses r0", "stop fio")

    method = change("resource.demote", _Named, refuse)

    async def run() -> None:
        await method.run(Caller(os.getpid(), 0, 0), _Named("r0"))

    with capture_logs() as records, pytest.raises(BlockpairError):
        asyncio.run(run())
    [record] = records
    assert (record["event"], record["resource"], record["method"]) == (
        "command.refused",
        "r0",
        "resource.demote",
    )
    found = event_of({**record, "level": record["log_level"]}, "a")
    assert found is not None and (found.text, found.next) == ("fio uses r0", "stop fio")
    # Who typed it was told; nobody else has to look.
    assert found.severity == "info"
