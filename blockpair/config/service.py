"""``[service]`` of a resource: what follows the data to the Primary."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from msgspec import Struct, field

from blockpair.config.files import ConfigError
from blockpair.units import parse_duration

FileSystem = Literal["ext4", "xfs"]
_T = TypeVar("_T")

MAX_UNITS = 32
MAX_VIPS = 16
MAX_OPTIONS = 32
# Where a file system in the way would stop the machine itself.
_SYSTEM_DIRECTORIES = frozenset(
    f"/{name}" for name in ("", "bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin",
                            "sys", "tmp", "usr", "var")
)  # fmt: skip
_OPTION = re.compile(r"[a-z0-9_]+(=[A-Za-z0-9_./:@%+-]+)?", re.ASCII)
# They make mount do something else than mount this device there.
_OTHER_OPTIONS = frozenset(
    {
        "bind",
        "rbind",
        "move",
        "remount",
        "loop",
        "offset",
        "sizelimit",
        "encryption",
        "user",
        "users",
        "owner",
        "group",
        "noauto",
        "auto",
        "nofail",
        "defaults",
        "_netdev",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
        "unbindable",
        "runbindable",
        "ro",
        "norecovery",
        "noload",
    }
)
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.(service|target|socket|timer|path|mount|slice)", re.ASCII
)
# As the kernel has it (dev_valid_name); ':' is for aliases.
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)


class HooksTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[service.hooks]``: programs, by whole path. ``promoted``: after the addresses are there;
    ``demoting``: after they are gone, before the units stop. Each is run with its moment and the resource's
    name.
    """

    promoted: str = ""
    demoting: str = ""


class ServiceTimeoutsTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[service.timeouts]``. ``start`` and ``stop``: of a unit; ``fsck``: of a check before the mount."""

    mount: str = "30s"
    unmount: str = "30s"
    fsck: str = "10m"
    start: str = "60s"
    stop: str = "60s"
    hook: str = "30s"


class ServiceTable(Struct, forbid_unknown_fields=True, frozen=True):
    """The whole table, as it is written. ``vips``: ``ADDRESS/BITS@INTERFACE``."""

    mount: str = ""
    file_system: FileSystem = "ext4"
    options: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    vips: list[str] = field(default_factory=list)
    hooks: HooksTable = field(default_factory=HooksTable)
    timeouts: ServiceTimeoutsTable = field(default_factory=ServiceTimeoutsTable)


@dataclass(frozen=True)
class Vip:
    """A virtual address: IPv4 or IPv6, with the length of its network's prefix and the interface that has
    it.
    """

    interface_address: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    interface: str

    @property
    def address(self) -> str:
        """Without prefix and interface."""
        return str(self.interface_address.ip)

    @property
    def bits(self) -> int:
        """The length of the network's prefix."""
        return self.interface_address.network.prefixlen

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.interface_address.version

    def __str__(self) -> str:
        return f"{self.address}/{self.bits}@{self.interface}"


@dataclass(frozen=True)
class ServiceTimeouts:
    """Seconds that a step may take."""

    mount: float = 30.0
    unmount: float = 30.0
    fsck: float = 600.0
    start: float = 60.0
    stop: float = 60.0
    hook: float = 30.0


@dataclass(frozen=True)
class Service:
    """A service definition, checked. ``mount`` None: nothing is mounted; a hook "" is none."""

    mount: Path | None = None
    file_system: FileSystem = "ext4"
    options: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    vips: tuple[Vip, ...] = ()
    promoted_hook: str = ""
    demoting_hook: str = ""
    timeouts: ServiceTimeouts = ServiceTimeouts()

    @property
    def empty(self) -> bool:
        """Whether nothing follows the data."""
        return self.mount is None and not (
            self.units or self.vips or self.promoted_hook or self.demoting_hook
        )


def parse_vip(text: str) -> Vip:
    """``192.0.2.10/24@eth0`` or ``2001:db8::10/64@bond0.7``. Raises `ValueError` that says what is wrong."""
    address, separator, interface = text.strip().rpartition("@")
    if not separator:
        raise ValueError(
            f"{text!r} names no interface; write ADDRESS/BITS@INTERFACE, such as 192.0.2.10/24@eth0"
        )
    if "/" not in address:
        raise ValueError(
            f"{text!r} has no prefix length; write that of its network, such as {address or '192.0.2.10'}/24"
        )
    if "%" in address:
        raise ValueError(f"{text!r}: the interface is what follows '@'; leave out '%' and what follows it")
    try:
        parsed = ipaddress.ip_interface(address)
    except ValueError:
        raise ValueError(
            f"{address!r} in {text!r} is not an IPv4 or IPv6 address with a prefix length"
        ) from None
    check_interface(interface)
    ip, network = parsed.ip, parsed.network
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified:
        raise ValueError(f"{ip} in {text!r} is no address that a client could reach")
    if ip.is_link_local and ip.version == 6:
        raise ValueError(
            f"{ip} in {text!r} is link-local: every host makes its own; choose a global or unique one"
        )
    if network.prefixlen == 0:
        raise ValueError(f"{text!r}: a prefix of length 0 would be the route to everything")
    if (
        ip.version == 4
        and network.prefixlen < 31
        and ip in (network.network_address, network.broadcast_address)
    ):
        raise ValueError(f"{ip} in {text!r} is the network's own or broadcast address, not a host's")
    return Vip(parsed, interface)


def check_interface(name: str) -> str:
    """``name``, if a network interface may have it. Raises `ValueError`."""
    if _INTERFACE.fullmatch(name) is None or name in (".", ".."):
        raise ValueError(
            f"{name!r} is not the name of a network interface (1 to 15 letters, digits, '_', '.', '-')"
        )
    return name


def check_unit(name: str) -> str:
    """``name``, if it may be a systemd unit to start, with its suffix. Raises `ValueError`."""
    if _UNIT.fullmatch(name) is None or len(name) > 255:
        raise ValueError(
            f"{name!r} is not the name of a unit; write it with its suffix, such as postgresql.service"
        )
    return name


def check_mount_point(text: str) -> Path:
    """``text``, if a file system may be mounted there. Raises `ValueError`."""
    if not text.startswith("/") or "\0" in text or "\n" in text:
        raise ValueError(f"{text!r} is not an absolute path")
    path = PurePosixPath(text)
    if ".." in path.parts or str(path) != (text.rstrip("/") or "/"):
        raise ValueError(f"{text!r} is not in its shortest form; write it without '..', '.' and double '/'")
    if str(path) in _SYSTEM_DIRECTORIES:
        raise ValueError(f"{text} belongs to the system; choose a directory of the service's own")
    return Path(path)


def check_option(text: str) -> str:
    """``text``, if it may be one mount option. Raises `ValueError`."""
    if _OPTION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a mount option; write one an entry, such as noatime")
    if text.partition("=")[0] in _OTHER_OPTIONS:
        raise ValueError(f"{text!r} is not an option for a file system that the Primary serves")
    return text


def service_config(table: ServiceTable, file: Path, key: str = "service") -> Service:
    """``table``, checked; ``key`` is where it stands in ``file``. Raises `ConfigError`."""
    mount = None
    if table.mount:
        mount = _checked(
            file, f"{key}.mount", table.mount, check_mount_point, "write the whole path of a directory"
        )
    elif table.options:
        raise ConfigError(file, f"{key}.options", "nothing is mounted", "write mount, or remove the options")
    _few(file, f"{key}.options", table.options, MAX_OPTIONS)
    _few(file, f"{key}.units", table.units, MAX_UNITS)
    _few(file, f"{key}.vips", table.vips, MAX_VIPS)
    vips = tuple(
        _checked(file, f"{key}.vips[{index}]", text, parse_vip, "correct the address")
        for index, text in enumerate(table.vips)
    )
    addresses = [vip.address for vip in vips]
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise ConfigError(file, f"{key}.vips[{index}]", f"{address} is there twice", "remove one of them")
    return Service(
        mount=mount,
        file_system=table.file_system,
        options=tuple(
            _checked(file, f"{key}.options[{index}]", text, check_option, "correct or remove it")
            for index, text in enumerate(table.options)
        ),
        units=tuple(
            _checked(file, f"{key}.units[{index}]", text, check_unit, "correct the name")
            for index, text in enumerate(table.units)
        ),
        vips=vips,
        promoted_hook=_hook(file, f"{key}.hooks.promoted", table.hooks.promoted),
        demoting_hook=_hook(file, f"{key}.hooks.demoting", table.hooks.demoting),
        timeouts=_timeouts(file, f"{key}.timeouts", table.timeouts),
    )


def _checked(file: Path, key: str, text: str, check: Callable[[str], _T], remedy: str) -> _T:
    try:
        return check(text)
    except ValueError as error:
        raise ConfigError(file, key, str(error), remedy) from None


def _few(file: Path, key: str, values: list[str], most: int) -> None:
    if len(values) > most:
        raise ConfigError(file, key, f"{len(values)} are too many", f"keep {most} at most")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(file, f"{key}[{index}]", f"{value!r} is there twice", "remove one of them")


def _hook(file: Path, key: str, text: str) -> str:
    if text and (not text.startswith("/") or "\0" in text):
        raise ConfigError(file, key, f"{text!r} is not an absolute path", "write the whole path of a program")
    return text


def _timeouts(file: Path, key: str, table: ServiceTimeoutsTable) -> ServiceTimeouts:
    found: dict[str, float] = {}
    for name in table.__struct_fields__:
        text = getattr(table, name)
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise ConfigError(file, f"{key}.{name}", str(error), "correct the value") from None
        if not 0.1 <= seconds <= 24 * 3600:
            raise ConfigError(
                file, f"{key}.{name}", f"{text} is not from 0.1 s to 24 h", "choose a value in that range"
            )
        found[name] = seconds
    return ServiceTimeouts(**found)
