"""What a service's state is, as anybody on the machine can see it: for showing a plan. Needs no rights."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blockpair.config.service import Service
from blockpair.failover import units
from blockpair.failover.plan import FileSystemState, MountState, Role, State


async def observe(service: Service, role: Role, device: Path | None) -> tuple[State, str]:
    """The state, without the file system's, which only root can read; and what could not be seen, in
    words.
    """
    import psutil

    problem = ""
    try:
        active = await units.active(service.units)
    except (units.UnitError, OSError) as error:
        active, problem = frozenset(), str(error)

    addresses = {
        (name, address.address.partition("%")[0])
        for name, found in psutil.net_if_addrs().items()
        for address in found
    }
    state = State(
        role=role,
        has_epoch=role is Role.PRIMARY,
        file_system=FileSystemState.UNKNOWN,
        mount=MountState.ABSENT if service.mount is None else _mounted(service.mount, device),
        units=active,
        vips=frozenset(str(vip) for vip in service.vips if (vip.interface, vip.address) in addresses),
    )
    return state, problem


def _mounted(point: Path, device: Path | None) -> MountState:
    if not point.is_mount():
        return MountState.ABSENT
    try:
        ours = device is not None and stat.S_ISBLK(device.stat().st_mode)
        number = device.stat().st_rdev if device is not None and ours else None
        return MountState.MOUNTED if number == os.stat(point).st_dev else MountState.FOREIGN  # noqa: PTH116
    except OSError:
        return MountState.FOREIGN
