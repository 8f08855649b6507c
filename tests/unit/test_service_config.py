"""A service definition: what it may say, and what is said of what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.config.files import ConfigError
from blockpair.config.service import Service, ServiceTable, parse_vip, service_config
from blockpair.vip_guard import parse

FILE = Path("cluster.toml")


def checked(**table: Any) -> Service:
    return service_config(msgspec.convert(table, ServiceTable), FILE)


def test_a_whole_definition() -> None:
    service = checked(
        mount="/srv/data",
        file_system="xfs",
        options=["noatime", "commit=30"],
        units=["postgresql@16-main.service", "web.target"],
        vips=["192.0.2.10/24@eth0", "2001:db8::10/64@bond0.7"],
        hooks={"promoted": "/etc/blockpair/hooks/up", "demoting": "/etc/blockpair/hooks/down"},
        timeouts={"start": "2m", "fsck": "1h"},
    )
    assert service.mount == Path("/srv/data") and service.timeouts.start == 120
    assert [str(vip) for vip in service.vips] == ["192.0.2.10/24@eth0", "2001:db8::10/64@bond0.7"]
    assert [vip.version for vip in service.vips] == [4, 6]
    assert not service.empty and checked().empty


@pytest.mark.parametrize(
    ("table", "key", "reason"),
    [
        ({"mount": "srv"}, "service.mount", "not an absolute path"),
        ({"mount": "/srv/../etc"}, "service.mount", "without '..'"),
        ({"mount": "/srv//x"}, "service.mount", "shortest form"),
        ({"mount": "/"}, "service.mount", "belongs to the system"),
        ({"mount": "/usr"}, "service.mount", "belongs to the system"),
        ({"options": ["noatime"]}, "service.options", "nothing is mounted"),
        ({"mount": "/srv", "options": ["noatime,bind"]}, "service.options[0]", "one an entry"),
        ({"mount": "/srv", "options": ["bind"]}, "service.options[0]", "not an option"),
        ({"mount": "/srv", "options": ["noatime", "noatime"]}, "service.options[1]", "there twice"),
        ({"mount": "/srv", "options": ["-v"]}, "service.options[0]", "not a mount option"),
        ({"units": ["postgresql"]}, "service.units[0]", "with its suffix"),
        ({"units": ["--force.service/"]}, "service.units[0]", "not the name of a unit"),
        ({"units": [f"u{n}.service" for n in range(33)]}, "service.units", "33 are too many"),
        ({"vips": ["192.0.2.10/24"]}, "service.vips[0]", "names no interface"),
        ({"vips": ["192.0.2.10@eth0"]}, "service.vips[0]", "no prefix length"),
        ({"vips": ["192.0.2.300/24@eth0"]}, "service.vips[0]", "not an IPv4 or IPv6 address"),
        ({"vips": ["192.0.2.0/24@eth0"]}, "service.vips[0]", "network's own"),
        ({"vips": ["192.0.2.255/24@eth0"]}, "service.vips[0]", "broadcast"),
        ({"vips": ["127.0.0.2/8@lo"]}, "service.vips[0]", "no address that a client could reach"),
        ({"vips": ["224.0.0.1/24@eth0"]}, "service.vips[0]", "no address that a client could reach"),
        ({"vips": ["fe80::1/64@eth0"]}, "service.vips[0]", "link-local"),
        ({"vips": ["fd00::1%eth0/64@eth0"]}, "service.vips[0]", "leave out '%'"),
        ({"vips": ["192.0.2.10/24@eth0:1"]}, "service.vips[0]", "not the name of a network interface"),
        ({"vips": ["192.0.2.10/24@eth0", "192.0.2.10/25@eth1"]}, "service.vips[1]", "there twice"),
        ({"hooks": {"promoted": "up.sh"}}, "service.hooks.promoted", "not an absolute path"),
        ({"timeouts": {"start": "soon"}}, "service.timeouts.start", "not a duration"),
        ({"timeouts": {"stop": "48h"}}, "service.timeouts.stop", "24 h"),
    ],
)
def test_what_cannot_be_used_is_named_with_reason_and_remedy(
    table: dict[str, Any], key: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(**table)
    assert caught.value.key == key and reason in caught.value.reason and caught.value.remedy


@given(st.text(max_size=60) | st.from_regex(r"[0-9a-f.:]{1,20}/[0-9]{1,3}@[a-z0-9.]{1,16}", fullmatch=True))
def test_any_text_is_an_address_or_an_error_in_words(text: str) -> None:
    try:
        vip = parse_vip(text)
    except ValueError as error:
        assert str(error)
        return
    assert parse_vip(str(vip)) == vip
    # What the daemon holds, the guard understands.
    _, packed, bits, interface = parse(str(vip))
    assert (packed, bits, interface) == (vip.interface_address.ip.packed, vip.bits, vip.interface)
