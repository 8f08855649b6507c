"""A node's virtual address, from the command line of a test: run in a network namespace.

probe VIP        print the MAC address of who has it, or "free"
claim VIP [SECONDS]    add it; for how long in the kernel, if nobody renews that
withdraw VIP     remove it
announce VIP     tell the neighbours, until the input ends
guard FILE VIP SECONDS    claim it under a guard that is petted once; print the guard's pid; stay
poke ADDRESS     send it a datagram
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

from blockpair.config.service import Vip, parse_vip
from blockpair.failover import arp, vip
from blockpair.failover.guard import VipGuard


async def _probe(one: Vip) -> None:
    claim = await arp.probe(one)
    print(claim.mac if claim else "free")


async def _announce(one: Vip) -> None:
    async def held(asked: Vip) -> bool:
        return bool(await asyncio.to_thread(vip.held, [asked]))

    announcer = arp.Announcer(held, print)
    announcer.begin(one)
    print("announced", flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _guard(file: Path, one: Vip, seconds: float) -> None:
    # What takes long comes before what is timed.
    await asyncio.to_thread(vip.held, [one])
    guard = await VipGuard.start(file)
    await guard.hold(one)
    await guard.until(time.clock_gettime(time.CLOCK_BOOTTIME) + seconds)
    await asyncio.to_thread(vip.claim, one)
    print(guard.pid, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Do what the arguments say."""
    command, *arguments = sys.argv[1:]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    match command:
        case "probe":
            asyncio.run(_probe(parse_vip(arguments[0])))
        case "claim":
            vip.claim(parse_vip(arguments[0]), *map(int, arguments[1:]))
        case "withdraw":
            vip.withdraw(parse_vip(arguments[0]))
        case "announce":
            asyncio.run(_announce(parse_vip(arguments[0])))
        case "guard":
            asyncio.run(_guard(Path(arguments[0]), parse_vip(arguments[1]), float(arguments[2])))
        case "poke":
            family = socket.AF_INET6 if ":" in arguments[0] else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as poke:
                poke.sendto(b"?", (arguments[0], 9))


if __name__ == "__main__":
    main()
