"""Virtual addresses on interfaces, by netlink. In a thread of their own: pyroute2 has an event loop
inside.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from blockpair.config.service import Vip
from blockpair.vip_guard import LIFETIME_SECONDS

if TYPE_CHECKING:
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

# Duplicate address detection would keep the address from being used for a second; the probe stands in for it.
_IFA_F_NODAD = 0x02


class VipError(Exception):
    """An address that cannot be added or removed, and why."""


def held(vips: Iterable[Vip]) -> frozenset[str]:
    """Those of ``vips`` that this machine has, on their interface and with their prefix. Raises
    `VipError`.
    """
    with _netlink() as netlink:
        return frozenset(str(vip) for vip in vips if _found(netlink, vip))


def claim(vip: Vip, lifetime: int = LIFETIME_SECONDS) -> None:
    """Add it, for ``lifetime`` seconds: then the kernel removes it, unless its guard has renewed that. There
    already is fine. Raises `VipError`.
    """
    with _netlink() as netlink:
        arguments: dict[str, Any] = {
            "index": _index(netlink, vip.interface),
            "address": vip.address,
            "prefixlen": vip.bits,
            "family": _family(vip),
            "preferred_lft": lifetime,
            "valid_lft": lifetime,
        }
        if vip.version == 6:
            arguments["flags"] = _IFA_F_NODAD
        try:
            try:
                netlink.addr("add", **arguments)
            except Exception as error:
                if _code(error) != errno.EEXIST or not _found(netlink, vip):
                    raise
                netlink.addr("replace", **arguments)
        except Exception as error:
            raise VipError(f"{vip} cannot be added: {_reason(error)}") from None


def withdraw(vip: Vip) -> None:
    """Remove it; not there is fine, and so is an interface that is not there. Raises `VipError`."""
    with _netlink() as netlink:
        try:
            index = _index(netlink, vip.interface)
        except VipError:
            return
        try:
            netlink.addr("delete", index=index, address=vip.address, prefixlen=vip.bits, family=_family(vip))
        except Exception as error:
            if _code(error) not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise VipError(f"{vip} cannot be removed: {_reason(error)}") from None


def _netlink() -> IPRoute:
    # 0.15 s of import: only a daemon that has an address to move pays it.
    from pyroute2 import IPRoute

    try:
        return IPRoute()
    except OSError as error:
        raise VipError(f"netlink cannot be used: {error.strerror}") from None


def _index(netlink: IPRoute, interface: str) -> int:
    found = netlink.link_lookup(ifname=interface)
    if not found:
        raise VipError(f"there is no interface {interface!r} on this node")
    return int(found[0])


def _found(netlink: IPRoute, vip: Vip) -> bool:
    try:
        index = _index(netlink, vip.interface)
    except VipError:
        return False
    return any(
        message["index"] == index
        and message["prefixlen"] == vip.bits
        and vip.address in (message.get("IFA_LOCAL"), message.get("IFA_ADDRESS"))
        for message in netlink.get_addr(family=_family(vip), index=index)
    )


def _family(vip: Vip) -> int:
    return int(socket.AF_INET if vip.version == 4 else socket.AF_INET6)


def _code(error: Exception) -> int:
    """Netlink's errors and the system's have one in different places."""
    return int(getattr(error, "code", None) or getattr(error, "errno", None) or 0)


def _reason(error: Exception) -> str:
    code = _code(error)
    if code == errno.EPERM:
        return "it needs the capability NET_ADMIN"
    if code == errno.EEXIST:
        return "the interface has it already, with another prefix length"
    return OSError(code, "").strerror or errno.errorcode.get(code, str(error)) if code else str(error)
