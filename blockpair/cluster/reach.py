"""Whether a port takes connections, and by which way."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass

from blockpair.cluster.tls import dial
from blockpair.config.names import Address

# linux/tcp.h, struct tcp_info: up to tcpi_rtt; where tcpi_pmtu and tcpi_rtt (microseconds) are in it.
_INFO_BYTES, _PMTU, _RTT = 72, 60, 68


@dataclass(frozen=True)
class Reached:
    """``why``: no connection was made; ``seconds``: a round trip, as the kernel measured it; ``own``: this
    machine's address on the way; ``path_mtu``: what the kernel takes to pass, in bytes.
    """

    why: str | None
    seconds: float | None = None
    own: str | None = None
    path_mtu: int | None = None


async def reach(address: Address, seconds: float) -> Reached:
    """Connect to ``address`` within ``seconds``, and hang up without a word."""
    try:
        async with asyncio.timeout(seconds):
            connection = await dial(address)
    except TimeoutError:
        return Reached(f"no answer within {seconds:g} s")
    except OSError as error:
        # asyncio puts words of its own in the place of the system's.
        number = error.errno or 0
        return Reached((os.strerror(number) if number > 0 else error.strerror) or str(error))
    with connection:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        [pmtu], [rtt] = struct.unpack_from("=I", info, _PMTU), struct.unpack_from("=I", info, _RTT)
        return Reached(None, rtt / 1e6, connection.getsockname()[0], pmtu)
