"""What a node lacks of a service that it would have to bring up one day, told before that day."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from blockpair.config.service import Service
from blockpair.failover import units


async def lacking(service: Service) -> list[str]:
    """In words, for a person; nothing where all of it is here. Raises `OSError`, `UnitError`."""
    return [*await asyncio.to_thread(lambda: list(_places(service))), *await units.unknown(service.units)]


def _places(service: Service) -> Iterator[str]:
    import psutil

    if service.mount is not None and not service.mount.is_dir():
        yield f"the directory {service.mount} is not there"
    known = psutil.net_if_stats()
    for interface in sorted({vip.interface for vip in service.vips} - known.keys()):
        yield f"there is no interface {interface}"
    for hook in (service.promoted_hook, service.demoting_hook):
        if hook and not os.access(hook, os.X_OK):
            yield f"the hook {hook} is not there, or not to be executed"
