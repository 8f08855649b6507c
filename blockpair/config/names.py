"""Names of resources and nodes, and network addresses: what is allowed, and words for what is not."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

NAME_RULE = (
    "a name has 1 to 64 of the characters a-z, 0-9, '_', '.' and '-', and begins with a letter or digit"
)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?", re.ASCII)


def check_name(name: str) -> str:
    """``name``, if it may name a resource or node. Raises `ValueError` that states the rule."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a name: {NAME_RULE}")
    return name


@dataclass(frozen=True)
class Address:
    """A host (name or address, an IPv6 one without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_host(host: str) -> str:
    """``host``, if it is a host name or an address; an IPv6 one without brackets. Raises `ValueError`."""
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv6 address, nor a host without a port") from None
    elif _HOST.fullmatch(host) is None:
        raise ValueError(f"{host!r} is not a host name or address")
    return host


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine's loopback. A name is not: what it resolves to may
    change.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str, *, any_port: bool = False) -> Address:
    """``HOST:PORT``, ``1.2.3.4:PORT`` or ``[IPv6]:PORT``; port 0 with ``any_port``. Raises `ValueError`."""
    host, separator, port_text = text.strip().rpartition(":")
    if not separator or not host:
        raise ValueError(f"{text!r} is not HOST:PORT (an IPv6 address goes in brackets: [fd00::1]:7788)")
    if not re.fullmatch(r"\d{1,5}", port_text, re.ASCII) or int(port_text) > 65535:
        raise ValueError(f"{port_text!r} in {text!r} is not a port; ports are numbers from 1 to 65535")
    port = int(port_text)
    if port == 0 and not any_port:
        raise ValueError(f"port 0 in {text!r} cannot be reached; ports are numbers from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} in {text!r} is not an IPv6 address") from None
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address goes in brackets, such as [fd00::1]:7788")
    elif _HOST.fullmatch(host) is None:
        raise ValueError(f"{host!r} in {text!r} is not a host name or address")
    return Address(host, port)
