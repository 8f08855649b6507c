"""The machine under a service's plan, as far as it needs no rights."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import cast

from blockpair import vip_guard
from blockpair.config.service import ServiceTable, service_config
from blockpair.failover.machine import Machine, Replica

# An interface that no machine has.
VIP = "192.0.2.10/24@bp-none0"


def guards() -> set[int]:
    """The processes of guards that this one started and that live."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if os.fsencode(vip_guard.__file__) in words and parent == os.getpid():
            found.add(int(entry.name))
    return found


def test_whoever_warms_up_at_the_same_time_shares_one_guard(tmp_path: Path) -> None:
    async def run() -> None:
        machine = Machine(
            "r0",
            service_config(ServiceTable(vips=[VIP]), tmp_path),
            cast(Replica, None),
            guard_file=tmp_path / "r0.list",
            device_file=tmp_path / "device",
            problem=print,
        )
        before = guards()
        await asyncio.gather(*(machine.warm_up() for _ in range(4)))
        assert len(guards() - before) == 1
        await machine.drop()
        assert guards() == before

    asyncio.run(run())
