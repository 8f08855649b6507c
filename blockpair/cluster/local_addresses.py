"""Which of its own addresses a node tells the others, unless an administrator says."""

from __future__ import annotations

import ipaddress

import psutil

from blockpair.errors import BlockpairError, ErrorKind


def default_addresses(listening: list[str], local: str | None) -> list[str]:
    """This node's addresses: those it listens on if they are given, else ``local``, the one by which it
    talks to another node already, else the only one it has. Raises `BlockpairError` where that is a guess.
    """
    return choose(listening, local, _present())


def choose(listening: list[str], local: str | None, present: list[str]) -> list[str]:
    """Like `default_addresses`, of the addresses ``present`` on the machine. Pure."""
    named = list(dict.fromkeys(host for host in listening if not _any(host)))
    if len(named) == 1:
        return named
    if local is not None:
        return [local]
    if len(present) == 1:
        return present
    raise BlockpairError(
        ErrorKind.USAGE,
        "this node has no address of its own" if not present else "this node has more than one address",
        "say by which one the other nodes reach it: --address ADDRESS"
        + (f"; there are: {', '.join(present)}" if present else ""),
    )


def _any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _present() -> list[str]:
    """Addresses of this machine that another one may reach."""
    found = []
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            try:
                address = ipaddress.ip_address(entry.address)
            except ValueError:
                continue
            if not (address.is_loopback or address.is_link_local):
                found.append(str(address))
    return found
